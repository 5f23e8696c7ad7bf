//! Terminals under load: memory is bounded, no viewer starves, no output is lost.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{Sandbox, TIMEOUT, soon, until};

/// Memory that a terminal may use, in KiB: scrollback, one message, and the allocator's reserve.
const ROOM: u64 = 3 * 1024;

#[tokio::test]
async fn a_paused_viewer_of_a_flood_costs_no_memory_and_delays_no_other() {
    let sandbox = Sandbox::start().await;
    let mut other = sandbox.terminal("other").await;
    other.types("echo ready-$((1+1))\n").await;
    other.shows("ready-2").await;
    let mut flood = sandbox.terminal("flood").await;
    flood
        .types("yes 0123456789012345678901234567890123456789\n")
        .await;
    flood.shows("0123456789\r\n0123456789").await;
    flood.send(b"2".to_vec()).await;
    let before = sandbox.resident();
    // Longer than a paused viewer may hold back the program, so that the flood continues without it.
    for round in 0..14 {
        other.types(&format!("echo round-$(({round}+100))\n")).await;
        other.shows(&format!("\nround-{}", round + 100)).await;
        assert_eq!(sandbox.sh("echo exec").await.stdout, "exec\n");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let after = sandbox.resident();
    assert!(after < before + ROOM, "{before} KiB before, {after} KiB after");
    // The viewer resumes, gets a replay, and stops the flood.
    flood.seen.clear();
    flood.send(b"3".to_vec()).await;
    flood.types("\u{3}").await;
    flood.types("echo over-$((1+1))\n").await;
    flood.shows("over-2").await;
}

#[tokio::test]
async fn a_viewer_that_does_not_read_delays_no_other() {
    let sandbox = Sandbox::start().await;
    let stuck = sandbox.terminal("main").await;
    let mut lively = sandbox.terminal("main").await;
    lively
        .types("head -c 20000000 /dev/zero | tr '\\0' x; echo; echo through-$((1+1))\n")
        .await;
    let mut bytes = 0;
    soon("twenty megabytes", async {
        loop {
            assert!(lively.step().await, "the lively viewer was dropped");
            if crate::harness::find(&lively.seen, b"through-2\r\n").is_some() {
                break;
            }
            let keep = lively.seen.len().saturating_sub(64);
            bytes += keep;
            lively.seen.drain(..keep);
        }
    })
    .await;
    bytes += lively.seen.len();
    assert!(bytes >= 20_000_000, "{bytes}");
    drop(stuck);
}

#[tokio::test]
async fn a_single_viewer_gets_every_byte_however_slow_it_is() {
    let sandbox = Sandbox::start().await;
    let mut viewer = sandbox.terminal("main").await;
    viewer
        .types("stty -onlcr; seq 1 400000; echo end-$((1+1))\n")
        .await;
    viewer.shows("end-$((1+1))").await;
    let mut pauses = 0;
    let text = soon("all numbers", async {
        while crate::harness::find(&viewer.seen, b"end-2\n").is_none() {
            assert!(viewer.step().await);
            if viewer.seen.len() / 500_000 > pauses {
                pauses += 1;
                viewer.send(b"2".to_vec()).await;
                tokio::time::sleep(Duration::from_millis(100)).await;
                viewer.send(b"3".to_vec()).await;
            }
        }
        String::from_utf8(std::mem::take(&mut viewer.seen)).unwrap()
    })
    .await;
    let numbers: Vec<u32> = text.lines().filter_map(|line| line.trim().parse().ok()).collect();
    assert_eq!(numbers.len(), 400_000);
    assert!(
        numbers
            .iter()
            .zip(1..)
            .all(|(found, expected)| *found == expected)
    );
    assert!(pauses > 3);
}

#[tokio::test]
async fn a_program_continues_without_viewers() {
    let sandbox = Sandbox::start().await;
    let mut viewer = sandbox.terminal("main").await;
    viewer.types("sleep 0.2; seq 1 300000; echo all > done\n").await;
    viewer.shows("done").await;
    drop(viewer);
    until("the program's end", async || {
        sandbox.project().join("done").exists().then_some(())
    })
    .await;
    // The last output may still be on its way from the program to this viewer, so another one gets all as a replay.
    sandbox.terminal("main").await.shows("\n300000\r\n").await;
    let mut later = sandbox.terminal("main").await;
    let replay = later.shows("\n300000\r\n").await;
    assert!(replay.len() <= 256 * 1024 + 100, "{}", replay.len());
    let first = replay.lines().nth(1).unwrap();
    assert!(
        first.parse::<u32>().is_ok(),
        "a replay begins with a whole line's rest: {first:?}"
    );
}

#[tokio::test]
async fn a_large_paste_arrives_whole_and_does_not_block_the_viewer() {
    let sandbox = Sandbox::start().await;
    let mut viewer = sandbox.terminal("main").await;
    viewer
        .types("stty raw -echo; echo go-$((1+1)); head -c 2000000 | sha256sum; stty sane\n")
        .await;
    viewer.shows("go-2").await;
    let piece: String = ('a'..='z').cycle().take(50_000).collect();
    let (mut sink, mut stream) = viewer.socket.split();
    let typed = async {
        for _ in 0..40 {
            sink.send(Message::Binary(fsa_model::tty::input(piece.as_bytes()).into()))
                .await
                .unwrap();
        }
    };
    let mut seen = Vec::new();
    let shown = async {
        while crate::harness::find(&seen, b"  -").is_none() {
            seen.extend_from_slice(&stream.next().await.unwrap().unwrap().into_data());
        }
    };
    tokio::time::timeout(TIMEOUT, async { tokio::join!(typed, shown) })
        .await
        .expect("the sum of what was pasted");
    std::fs::write(sandbox.project().join("p"), &piece).unwrap();
    let sums = "i=0; while [ $i -lt 40 ]; do cat p; i=$((i+1)); done | sha256sum";
    let expected = sandbox.sh(sums).await.stdout;
    let sum = expected.split(' ').next().unwrap();
    assert!(
        crate::harness::find(&seen, sum.as_bytes()).is_some(),
        "{:?} has not {sum}",
        String::from_utf8_lossy(&seen)
    );
}
