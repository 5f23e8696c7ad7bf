//! LLM proxy compared with a direct stream: the same small client reads the same model server's responses, once from a
//! sandbox through the LLM proxy, once on the machine itself, and once through two programs that only copy, since the
//! path through the LLM proxy has two programs.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use fsa_tests::World;
use reqwest::Method;

use crate::report::{Row, Sample, Target, median};

/// Bytes of a long answer.
const LONG_RESPONSE_BYTES: usize = 64 * 1024 * 1024;
/// Bytes per second of a line of 1 Gbit/s, below TCP's and Ethernet's own (1448 of 1538).
const LINE_RATE: f64 = 125e6 * 1448.0 / 1538.0;
/// Bytes that a paced answer sends at once.
const PACED_CHUNK: usize = 64 * 1024;
/// Bytes that a program which only copies reads at once.
const COPY_BUFFER: usize = 256 * 1024;
/// Short answers of one turn.
const SHORT_RESPONSES: usize = 200;
/// Prefix of the provider's path for direct requests.
const DIRECT: &str = "";
/// An event of the Messages API's stream, of the usual length.
const EVENT: &[u8] = b"event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\" and so on\"}}\n\n";

/// Starts the stand-in for a model server, which runs as long as this process. Returns its port.
pub fn serve() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
    let port = listener.local_addr().expect("a bound port").port();
    let long: &'static [u8] = answer(&EVENT.repeat(LONG_RESPONSE_BYTES / EVENT.len())).leak();
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

/// Requests have bodies of one byte: `l` requests the long response, `p` the same at the rate of a line, `s` the
/// short one.
fn reply(mut stream: TcpStream, short: &[u8], long: &[u8]) {
    let _ = stream.set_nodelay(true);
    let (mut buffer, mut piece) = (Vec::new(), [0; 8192]);
    loop {
        let end = buffer
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
            .map(|at| at + 4);
        // The byte may come in a separate chunk (`1\r\nl\r\n0\r\n\r\n`).
        let chunked = String::from_utf8_lossy(&buffer)
            .to_ascii_lowercase()
            .contains("transfer-encoding: chunked");
        let body = if chunked { 11 } else { 1 };
        if let Some(end) = end
            && buffer.len() >= end + body
        {
            let kind = buffer[end + if chunked { 3 } else { 0 }];
            buffer.drain(..end + body);
            let sent = match kind {
                b'l' => stream.write_all(long),
                b'p' => write_paced(&mut stream, long),
                _ => stream.write_all(short),
            };
            if sent.is_err() {
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

#[allow(clippy::cast_precision_loss, reason = "less than 2^53 bytes")]
#[allow(clippy::disallowed_methods, reason = "paces the lines, on a separate thread")]
fn write_paced(stream: &mut TcpStream, whole: &[u8]) -> std::io::Result<()> {
    let begun = Instant::now();
    for (at, piece) in whole.chunks(PACED_CHUNK).enumerate() {
        let due = begun + Duration::from_secs_f64((at * PACED_CHUNK) as f64 / LINE_RATE);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        stream.write_all(piece)?;
    }
    Ok(())
}

/// The client: prints the median milliseconds to the first byte of the body, and MB/s of a long answer at the rate
/// of a line and as fast as possible. In a sandbox `address` and `prefix` are those of its local proxy.
pub fn run_client(address: &str, prefix: &str, token: &str) {
    let mut stream = TcpStream::connect(address).expect("the server listens");
    let _ = stream.set_nodelay(true);
    let ask = |what: &str| {
        format!(
            "POST {prefix}/v1/messages HTTP/1.1\r\nHost: {address}\r\nx-api-key: {token}\r\n\
             Content-Type: application/json\r\nContent-Length: 1\r\n\r\n{what}"
        )
    };
    let mut first = Sample::default();
    // The first requests open connections.
    for at in 0..SHORT_RESPONSES + 10 {
        let begun = Instant::now();
        stream.write_all(ask("s").as_bytes()).expect("a request is sent");
        let took = read(&mut stream, begun).0;
        if at >= 10 {
            first.add(took);
        }
    }
    let mut rate = |what: &str| {
        let begun = Instant::now();
        stream.write_all(ask(what).as_bytes()).expect("a request is sent");
        let (_, bytes) = read(&mut stream, begun);
        #[allow(clippy::cast_precision_loss, reason = "less than 2^53 bytes")]
        let rate = bytes as f64 / 1e6 / begun.elapsed().as_secs_f64();
        rate
    };
    println!("{} {} {}", first.percentile(50.0), rate("p"), rate("l"));
}

/// Plain TCP forwarder: prints its port, and copies each connection to `address` and back.
pub fn run_forwarder(address: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
    println!("{}", listener.local_addr().expect("a bound port").port());
    for client in listener.incoming().flatten() {
        let server = TcpStream::connect(address).expect("the next one listens");
        for stream in [&client, &server] {
            let _ = stream.set_nodelay(true);
        }
        let there = (
            client.try_clone().expect("a descriptor"),
            server.try_clone().expect("a descriptor"),
        );
        for (from, to) in [there, (server, client)] {
            std::thread::spawn(move || forward(from, to));
        }
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream) {
    let mut piece = vec![0; COPY_BUFFER];
    while let Ok(length @ 1..) = from.read(&mut piece) {
        if to.write_all(&piece[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Write);
}

/// A process of [`run_forwarder`].
struct Forwarder {
    child: Child,
    port: u16,
}

impl Forwarder {
    #[allow(clippy::disallowed_methods, reason = "the floor is the same program outside")]
    fn to(port: u16) -> Self {
        let program = std::env::current_exe().expect("this program");
        let mut child = Command::new(program)
            .args(["copy", &format!("127.0.0.1:{port}")])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program runs");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe"))
            .read_line(&mut line)
            .expect("its port");
        let port = line.trim().parse().expect("a port");
        Self { child, port }
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads one response with a `Content-Length`. Returns the time to its body's first byte, and the body's length.
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
    let near = Forwarder::to(model);
    let far = Forwarder::to(near.port);
    let mut figures: [[Vec<f64>; 3]; 3] = Default::default();
    // Alternately, so that a slow moment of the machine affects all.
    for _ in 0..3 {
        let ours = api
            .shell(
                "asks",
                "./ask fetch \"${FSA_ASKS_URL#http://}\" /anthropic \"$FSA_ASKS_TOKEN\"",
            )
            .await;
        let (direct, copied) = (direct_client(model), direct_client(far.port));
        for (at, text) in [ours, direct, copied].iter().enumerate() {
            let numbers: Vec<f64> = text
                .split_whitespace()
                .map(|word| word.parse().expect("a number"))
                .collect();
            assert_eq!(numbers.len(), figures.len(), "{text}");
            for (figure, number) in figures.iter_mut().zip(numbers) {
                figure[at].push(number);
            }
        }
    }
    api.delete("asks").await;
    let [[ours, direct, _], [kept_up, line, _], [passed, plain, copied]] =
        figures.map(|figure| figure.map(median));
    vec![
        Row::new(
            "relay, added to the first byte, p50",
            ours - direct,
            "ms",
            Target::AtMost(2.0),
        ),
        Row::new(
            "relay, small events at a line's rate of 1 Gbit/s (floor: the same stream, directly)",
            kept_up,
            "MB/s",
            Target::AtLeast(line * 0.9),
        )
        .with_floor(line),
        Row::new(
            "relay, small events as fast as they go (floor: the same stream, directly)",
            passed,
            "MB/s",
            Target::AtLeast(plain * 0.9),
        )
        .with_floor(plain),
        Row::new(
            "relay, the same (floor: through two programs that only copy)",
            passed,
            "MB/s",
            Target::None,
        )
        .with_floor(copied),
    ]
}

#[allow(clippy::disallowed_methods, reason = "the floor is the same program outside")]
fn direct_client(model: u16) -> String {
    let program = std::env::current_exe().expect("this program");
    let output = Command::new(program)
        .args(["fetch", &format!("127.0.0.1:{model}"), DIRECT, "none"])
        .stdin(Stdio::null())
        .output()
        .expect("this program runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
