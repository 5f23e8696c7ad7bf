//! Terminals under load: memory is bounded, no viewer starves, no output is lost.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{Sandbox, TIMEOUT, until, within_timeout};

/// Memory that a terminal may use, in KiB: scrollback, one message, and the allocator's reserve.
const ROOM: u64 = 3 * 1024;

#[tokio::test]
async fn a_paused_viewer_of_a_flood_costs_no_memory_and_delays_no_other() {
    let sandbox = Sandbox::start().await;
    let mut other = sandbox.terminal("other").await;
    other.type_text("echo ready-$((1+1))\n").await;
    other.until_shown("ready-2").await;
    let mut flood = sandbox.terminal("flood").await;
    flood
        .type_text("yes 0123456789012345678901234567890123456789\n")
        .await;
    flood.until_shown("0123456789\r\n0123456789").await;
    flood.send(b"2".to_vec()).await;
    let before = sandbox.resident_kib();
    // Longer than a paused viewer may hold back the program, so that the flood continues without it.
    for round in 0..14 {
        other.type_text(&format!("echo round-$(({round}+100))\n")).await;
        other.until_shown(&format!("\nround-{}", round + 100)).await;
        assert_eq!(sandbox.sh("echo exec").await.stdout, "exec\n");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let after = sandbox.resident_kib();
    assert!(after < before + ROOM, "{before} KiB before, {after} KiB after");
    // The viewer resumes, gets a replay, and stops the flood.
    flood.seen.clear();
    flood.send(b"3".to_vec()).await;
    flood.type_text("\u{3}").await;
    flood.type_text("echo over-$((1+1))\n").await;
    flood.until_shown("over-2").await;
}

#[tokio::test]
async fn a_viewer_that_does_not_read_delays_no_other() {
    let sandbox = Sandbox::start().await;
    let stuck = sandbox.terminal("main").await;
    let mut lively = sandbox.terminal("main").await;
    lively
        .type_text("head -c 20000000 /dev/zero | tr '\\0' x; echo; echo through-$((1+1))\n")
        .await;
    let mut bytes = 0;
    within_timeout("twenty megabytes", async {
        loop {
            assert!(lively.receive().await, "the lively viewer was dropped");
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
        .type_text("stty -onlcr; seq 1 400000; echo end-$((1+1))\n")
        .await;
    viewer.until_shown("end-$((1+1))").await;
    let mut pauses = 0;
    let text = within_timeout("all numbers", async {
        while crate::harness::find(&viewer.seen, b"end-2\n").is_none() {
            assert!(viewer.receive().await);
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
    viewer
        .type_text("sleep 0.2; seq 1 300000; echo all > done\n")
        .await;
    viewer.until_shown("done").await;
    drop(viewer);
    until("the program's end", async || {
        sandbox.project().join("done").exists().then_some(())
    })
    .await;
    // The last output may still be on its way from the program to this viewer, so another one gets all as a replay.
    sandbox.terminal("main").await.until_shown("\n300000\r\n").await;
    let mut later = sandbox.terminal("main").await;
    let replay = later.until_shown("\n300000\r\n").await;
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
        .type_text("stty raw -echo; echo go-$((1+1)); head -c 2000000 | sha256sum; stty sane\n")
        .await;
    viewer.until_shown("go-2").await;
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
