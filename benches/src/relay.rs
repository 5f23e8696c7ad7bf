//! The relay beside a direct stream: the same small client reads the same model server's answers, once from a
//! sandbox through the relay and once on the machine itself.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Command, Stdio},
    time::Instant,
};

use fsa_tests::World;
use reqwest::Method;

use crate::report::{Row, Sample, Target, median};

/// Bytes of a long answer.
const LONG: usize = 64 * 1024 * 1024;
/// Short answers of one turn.
const SHORT: usize = 200;
/// What is in front of the provider's path, for those who ask directly.
const DIRECT: &str = "";
/// An event of the Messages API's stream, of the usual length.
const EVENT: &[u8] = b"event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\" and so on\"}}\n\n";

/// The stand-in for a model's server, as long as this process lives. Returns its port.
pub fn serve() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
    let port = listener.local_addr().expect("a bound port").port();
    let long: &'static [u8] = answer(&EVENT.repeat(LONG / EVENT.len())).leak();
    let short: &'static [u8] = answer(EVENT).leak();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || reply(stream, short, long));
        }
    });
    port
}

fn answer(body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// Requests have bodies of one byte: `l` asks for the long answer, `s` for the short one.
fn reply(mut stream: TcpStream, short: &[u8], long: &[u8]) {
    let _ = stream.set_nodelay(true);
    let (mut buffer, mut piece) = (Vec::new(), [0; 8192]);
    loop {
        let end = buffer
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
            .map(|at| at + 4);
        // The byte may come in a chunk of its own (`1\r\nl\r\n0\r\n\r\n`).
        let chunked = String::from_utf8_lossy(&buffer)
            .to_ascii_lowercase()
            .contains("transfer-encoding: chunked");
        let body = if chunked { 11 } else { 1 };
        if let Some(end) = end
            && buffer.len() >= end + body
        {
            let is_long = buffer[end + if chunked { 3 } else { 0 }] == b'l';
            buffer.drain(..end + body);
            if stream.write_all(if is_long { long } else { short }).is_err() {
                return;
            }
            continue;
        }
        match stream.read(&mut piece) {
            Ok(length @ 1..) => buffer.extend_from_slice(&piece[..length]),
            _ => return,
        }
    }
}

/// The client: prints the median milliseconds to the first byte of the body, and MB/s of a long answer. In a
/// sandbox `address` and `prefix` are those of its relay.
pub fn fetch(address: &str, prefix: &str, token: &str) {
    let mut stream = TcpStream::connect(address).expect("the server listens");
    let _ = stream.set_nodelay(true);
    let ask = |what: &str| {
        format!(
            "POST {prefix}/v1/messages HTTP/1.1\r\nHost: {address}\r\nx-api-key: {token}\r\n\
             Content-Type: application/json\r\nContent-Length: 1\r\n\r\n{what}"
        )
    };
    let mut first = Sample::default();
    // The first ones open connections on the way.
    for at in 0..SHORT + 10 {
        let begun = Instant::now();
        stream.write_all(ask("s").as_bytes()).expect("a request is sent");
        let took = read(&mut stream, begun).0;
        if at >= 10 {
            first.add(took);
        }
    }
    let begun = Instant::now();
    stream.write_all(ask("l").as_bytes()).expect("a request is sent");
    let (_, bytes) = read(&mut stream, begun);
    #[allow(clippy::cast_precision_loss, reason = "less than 2^53 bytes")]
    let rate = bytes as f64 / 1e6 / begun.elapsed().as_secs_f64();
    println!("{} {rate}", first.percentile(50.0));
}

/// Reads one answer with a `Content-Length`; how long its body's first byte took, and how many there were.
fn read(stream: &mut TcpStream, begun: Instant) -> (std::time::Duration, usize) {
    let (mut buffer, mut piece) = (Vec::new(), vec![0; 256 * 1024]);
    let mut first = None;
    let (mut length, mut seen) = (None, 0);
    while length.is_none_or(|length| seen < length) {
        let count = stream.read(&mut piece).expect("an answer");
        assert!(
            count > 0,
            "the answer broke off: {}",
            String::from_utf8_lossy(&buffer)
        );
        if length.is_some() {
            seen += count;
        } else {
            buffer.extend_from_slice(&piece[..count]);
            let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") else {
                continue;
            };
            let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
            assert!(head.starts_with("http/1.1 200"), "{head}");
            let field = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length:"))
                .expect("an answer's length");
            length = Some(field.trim().parse::<usize>().expect("a number"));
            seen = buffer.len() - end - 4;
        }
        if seen > 0 && first.is_none() {
            first = Some(begun.elapsed());
        }
    }
    (first.unwrap_or_else(|| begun.elapsed()), seen)
}

pub async fn measure(world: &World, model: u16) -> Vec<Row> {
    let api = world.api();
    api.create_running("asks").await;
    let program = std::fs::read("/proc/self/exe").expect("this program");
    let put = api
        .request(Method::PUT, "/api/projects/asks/files?path=ask&mode=0755")
        .body(program);
    let (status, value) = api.answer(put).await;
    assert!(status.is_success(), "{value}");
    let (mut first, mut rate) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    // In turns, so that a slow moment of the machine hits both.
    for _ in 0..3 {
        let ours = api
            .shell(
                "asks",
                "./ask fetch \"${FSA_ASKS_URL#http://}\" /anthropic \"$FSA_ASKS_TOKEN\"",
            )
            .await;
        let direct = on_the_machine(model);
        for (at, text) in [ours, direct].iter().enumerate() {
            let mut numbers = text
                .split_whitespace()
                .map(|word| word.parse::<f64>().expect("a number"));
            first[at].push(numbers.next().expect("a time"));
            rate[at].push(numbers.next().expect("a rate"));
        }
    }
    api.delete("asks").await;
    let [ours, direct] = first.map(median);
    let [passed, plain] = rate.map(median);
    vec![
        Row::new(
            "relay, added to the first byte, p50",
            ours - direct,
            "ms",
            Target::AtMost(2.0),
        ),
        Row::new(
            "relay, a stream of small events (floor: the same stream, directly)",
            passed,
            "MB/s",
            Target::AtLeast(plain * 0.9),
        )
        .beside(plain),
    ]
}

#[allow(clippy::disallowed_methods, reason = "the floor is the same program outside")]
fn on_the_machine(model: u16) -> String {
    let program = std::env::current_exe().expect("this program");
    let output = Command::new(program)
        .args(["fetch", &format!("127.0.0.1:{model}"), DIRECT, "none"])
        .stdin(Stdio::null())
        .output()
        .expect("this program runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
