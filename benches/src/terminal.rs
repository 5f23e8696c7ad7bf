//! Terminal: the latency of a key's echo, and the throughput of output.

use std::time::Instant;

use fsa_model::tty;
use fsa_tests::{TestTerminal, World};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    floor,
    report::{Row, Sample, Target, median},
};

const KEYSTROKES: usize = 2000;
const OUTPUT_BYTES: usize = 200_000_000;
/// Bytes of output, for the terminal and for the floor.
const ROUNDS: usize = 5;
/// Lines as a build prints them, written in pieces of 64 KiB.
const OUTPUT: &str =
    "yes 'the quick brown fox jumps over the lazy dog, again and again and again' | head -c 200000000";

pub async fn measure(world: &World) -> Vec<Row> {
    let api = world.api();
    api.create_running("terminal").await;
    let mut terminal = TestTerminal::open(&api, "terminal", "echo").await;
    // The line discipline echoes, and nothing else is shown: as with a shell's prompt, without it.
    terminal.type_in("echo be''gun; cat >/dev/null\r").await;
    terminal.until("begun\r\n").await;
    let mut sample = Sample::default();
    for at in 0..KEYSTROKES {
        let key = char::from(b'a' + u8::try_from(at % 26).unwrap_or(0)).to_string();
        let begun = Instant::now();
        terminal.type_in(&key).await;
        terminal.until(&key).await;
        sample.add(begun.elapsed());
    }
    drop(terminal);
    let mut terminal = TestTerminal::open(&api, "terminal", "output").await;
    terminal.until("$").await;
    // Alternately, so that a slow moment of the machine affects both.
    let (mut rates, mut floors) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        floors.push(floor::pty_output(&["/bin/sh", "-c", OUTPUT], OUTPUT_BYTES));
        let begun = Instant::now();
        terminal
            .socket
            .send(Message::binary(tty::input(
                format!("{OUTPUT}; echo\r").as_bytes(),
            )))
            .await
            .expect("input");
        let mut seen = 0;
        while seen < OUTPUT_BYTES {
            match terminal.socket.next().await {
                Some(Ok(Message::Binary(bytes))) => seen += bytes.len(),
                Some(Ok(_)) => {}
                other => panic!("the terminal ended: {other:?}"),
            }
        }
        rates.push(seen as f64 / 1e6 / begun.elapsed().as_secs_f64());
        terminal.until("$").await;
    }
    let [ours, local] = [rates, floors].map(median);
    api.delete("terminal").await;
    vec![
        Row::new(
            "terminal, key to echo, p50",
            sample.percentile(50.0),
            "ms",
            Target::AtMost(1.0),
        ),
        Row::new(
            "terminal, key to echo, p99",
            sample.percentile(99.0),
            "ms",
            Target::AtMost(3.0),
        ),
        Row::new(
            "terminal output (floor: a local pty, read by a plain loop)",
            ours,
            "MB/s",
            Target::AtLeast((local * 0.6).max(30.0)),
        )
        .with_floor(local),
    ]
}
