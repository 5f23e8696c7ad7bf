//! Benchmark of a sandboxd binary, compared with a plain pseudo-terminal in the same run.
//!
//!     cargo run --release --example bench -p fsa-sandboxd -- PATH/TO/fsa-sandboxd
//!
//! The client reads a Unix socket in a plain loop and parses frames by their headers only, so what
//! is measured is sandboxd.

#![allow(
    clippy::disallowed_methods,
    reason = "it measures from outside, where a pause is part of the measurement"
)]

use std::{
    fs,
    io::{Read, Write},
    os::{
        fd::OwnedFd,
        unix::{fs::PermissionsExt, net::UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const TOKEN: &str = "bench";
const MEGABYTES: usize = 200;

struct Sandbox {
    child: Child,
    folder: tempfile::TempDir,
    /// From the start of the process to the first response.
    started: Duration,
}

impl Sandbox {
    fn start(binary: &Path) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("its mode");
        let etc = folder.path().join("etc");
        fs::create_dir(&etc).expect("a folder");
        let boot = r#"{"controlToken":"bench","hostname":"bench","environment":{}}"#;
        fs::write(folder.path().join("boot.json"), boot).expect("a file");
        let begun = Instant::now();
        let path = |name: &str| folder.path().join(name);
        let child = Command::new(binary)
            .args([
                Path::new("--control"),
                &path("s"),
                Path::new("--boot"),
                &path("boot.json"),
            ])
            .args([Path::new("--home"), &path("home"), Path::new("--etc"), &etc])
            .stdin(Stdio::null())
            .spawn()
            .expect("sandboxd starts");
        let mut sandbox = Self {
            child,
            folder,
            started: Duration::ZERO,
        };
        while UnixStream::connect(sandbox.folder.path().join("s")).is_err() {
            std::thread::sleep(Duration::from_micros(200));
        }
        sandbox.request("GET /v1/status", "");
        sandbox.started = begun.elapsed();
        sandbox
    }

    fn dial(&self) -> UnixStream {
        UnixStream::connect(self.folder.path().join("s")).expect("it listens")
    }

    fn request(&self, request: &str, body: &str) -> String {
        let mut stream = self.dial();
        write!(
            stream,
            "{request} HTTP/1.1\r\nhost: s\r\nconnection: close\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }

    fn memory(&self, field: &str) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id())).expect("it lives");
        let lines = text
            .lines()
            .filter_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        lines
            .filter_map(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok())
            .sum()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

/// WebSocket of a terminal.
struct Terminal {
    stream: UnixStream,
    buffer: Vec<u8>,
    filled: usize,
    at: usize,
}

impl Terminal {
    fn open(sandbox: &Sandbox, name: &str) -> Self {
        let mut stream = sandbox.dial();
        write!(
            stream,
            "GET /v1/terminal?session={name} HTTP/1.1\r\nhost: s\r\nauthorization: Bearer {TOKEN}\r\nconnection: Upgrade\r\n\
             upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             sec-websocket-protocol: tty\r\n\r\n"
        )
        .expect("it reads");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("an answer");
            head.push(byte[0]);
        }
        let mut terminal = Self {
            stream,
            buffer: vec![0; 256 * 1024],
            filled: 0,
            at: 0,
        };
        terminal.send(1, br#"{"AuthToken":"","columns":80,"rows":24}"#);
        terminal
    }

    fn send(&mut self, opcode: u8, payload: &[u8]) {
        let mut frame = vec![0x80 | opcode];
        if payload.len() < 126 {
            frame.push(0x80 | payload.len() as u8);
        } else {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(payload.len() as u16).to_be_bytes());
        }
        // A mask of zeros does not change the payload.
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(payload);
        self.stream.write_all(&frame).expect("it reads");
    }

    fn type_text(&mut self, text: &str) {
        self.send(2, &[b"0", text.as_bytes()].concat());
    }

    /// Reads until so many bytes are in the buffer.
    fn fill(&mut self, needed: usize) {
        while self.filled - self.at < needed {
            if self.buffer.len() - self.at < needed || self.at > self.buffer.len() / 2 {
                self.buffer.copy_within(self.at..self.filled, 0);
                self.filled -= self.at;
                self.at = 0;
            }
            let read = self.stream.read(&mut self.buffer[self.filled..]).expect("more");
            assert!(read > 0, "the terminal ended");
            self.filled += read;
        }
    }

    /// The next message's payload.
    fn next(&mut self) -> &[u8] {
        self.fill(2);
        let (header, length) = match self.buffer[self.at + 1] {
            126 => {
                self.fill(4);
                (
                    4,
                    usize::from(u16::from_be_bytes([
                        self.buffer[self.at + 2],
                        self.buffer[self.at + 3],
                    ])),
                )
            }
            127 => {
                self.fill(10);
                let bytes: [u8; 8] = self.buffer[self.at + 2..self.at + 10]
                    .try_into()
                    .expect("eight bytes");
                (10, u64::from_be_bytes(bytes) as usize)
            }
            short => (2, usize::from(short)),
        };
        self.fill(header + length);
        let begin = self.at + header;
        self.at = begin + length;
        &self.buffer[begin..begin + length]
    }

    fn until(&mut self, text: &str) {
        let mut tail = Vec::new();
        loop {
            tail.extend_from_slice(&self.next()[1..]);
            if memchr::memmem::find(&tail, text.as_bytes()).is_some() {
                return;
            }
            let keep = tail.len().saturating_sub(text.len());
            tail.drain(..keep);
        }
    }
}

/// The command that writes, on a terminal in raw mode.
fn flood(folder: &Path) -> (PathBuf, String) {
    let file = folder.join("text");
    let line = "The quick brown fox jumps over the lazy dog; 0123456789 \x1b[32mgreen\x1b[0m text\n";
    let text: String = line.chars().cycle().take(1024 * 1024).collect();
    fs::write(&file, text).expect("a file");
    let script = format!(
        "stty raw -echo; i=0; while [ $i -lt {MEGABYTES} ]; do dd if={} bs=64k 2>/dev/null; i=$((i+1)); done; printf THE-END",
        file.display()
    );
    (file, script)
}

fn plain_pty(script: &str) -> f64 {
    let pty = nix::pty::openpty(None, None).expect("a pty");
    let slave = pty.slave;
    let copy = || Stdio::from(slave.try_clone().expect("a descriptor"));
    let mut child = Command::new("sh")
        .args(["-c", script])
        .stdin(copy())
        .stdout(copy())
        .stderr(copy())
        .spawn()
        .expect("sh");
    drop(slave);
    let mut master = fs::File::from(pty.master);
    let (mut buffer, mut bytes) = (vec![0; 64 * 1024], 0usize);
    let mut begun = None;
    while let Ok(read) = master.read(&mut buffer) {
        begun.get_or_insert_with(Instant::now);
        bytes += read;
        if buffer[..read].ends_with(b"THE-END") {
            break;
        }
    }
    let rate = bytes as f64 / begun.expect("output").elapsed().as_secs_f64() / 1e6;
    drop(master);
    let _ = child.wait();
    rate
}

fn through_sandboxd(sandbox: &Sandbox, script: &str) -> f64 {
    let mut terminal = Terminal::open(sandbox, "flood");
    fs::write(sandbox.folder.path().join("flood.sh"), script).expect("a file");
    terminal.type_text("echo ready-$((1+1))\n");
    terminal.until("ready-2");
    terminal.type_text(&format!(
        "exec sh {}\n",
        sandbox.folder.path().join("flood.sh").display()
    ));
    let (mut bytes, mut begun) = (0, Instant::now());
    let total = MEGABYTES * 1024 * 1024;
    while bytes < total {
        let length = terminal.next().len();
        if bytes < 4096 {
            begun = Instant::now();
        }
        bytes += length - 1;
    }
    bytes as f64 / begun.elapsed().as_secs_f64() / 1e6
}

fn percentiles(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)].as_secs_f64() * 1e3;
    format!("p50 {:.3} ms, p95 {:.3} ms, p99 {:.3} ms", at(50), at(95), at(99))
}

fn plain_echo() -> Vec<Duration> {
    let pty = nix::pty::openpty(None, None).expect("a pty");
    let keep: OwnedFd = pty.slave;
    let mut master = fs::File::from(pty.master);
    let measure = |master: &mut fs::File| {
        let begun = Instant::now();
        master.write_all(b"x").expect("it is written");
        let mut byte = [0];
        master.read_exact(&mut byte).expect("an echo");
        begun.elapsed()
    };
    let times = (0..1000).map(|_| measure(&mut master)).collect();
    drop(keep);
    times
}

fn echo(sandbox: &Sandbox, times: usize) -> Vec<Duration> {
    let mut terminal = Terminal::open(sandbox, "echo");
    terminal.type_text("stty -icanon; echo ready-$((1+1)); exec cat >/dev/null\n");
    terminal.until("ready-2\r\n");
    std::thread::sleep(Duration::from_millis(300));
    (0..times)
        .map(|_| {
            std::thread::sleep(Duration::from_millis(2));
            let begun = Instant::now();
            terminal.type_text("x");
            while !terminal.next().starts_with(b"0") {}
            begun.elapsed()
        })
        .collect()
}

fn main() {
    let binary: PathBuf = std::env::args_os()
        .nth(1)
        .expect("the path of a sandboxd binary")
        .into();
    let sandbox = Sandbox::start(&binary);
    println!(
        "start to first answer       {:.1} ms",
        sandbox.started.as_secs_f64() * 1e3
    );
    std::thread::sleep(Duration::from_secs(3));
    let idle = |sandbox: &Sandbox| {
        format!(
            "Rss {} KiB, Pss {} KiB, anonymous {} KiB",
            sandbox.memory("Rss"),
            sandbox.memory("Pss"),
            sandbox.memory("Anonymous")
        )
    };
    println!("memory, idle                {}", idle(&sandbox));
    let exec = || {
        let begun = Instant::now();
        let answer = sandbox.request("POST /v1/exec", r#"{"command":["true"]}"#);
        assert!(answer.contains("\"exitCode\":0"), "{answer}");
        begun.elapsed()
    };
    println!(
        "exec of `true`              {}",
        percentiles((0..300).map(|_| exec()).collect())
    );
    println!("echo, plain pty             {}", percentiles(plain_echo()));
    println!(
        "echo, through sandboxd      {}",
        percentiles(echo(&sandbox, 1000))
    );
    let (_, script) = flood(sandbox.folder.path());
    for _ in 0..2 {
        let floor = plain_pty(&script);
        let ours = through_sandboxd(&sandbox, &script);
        println!(
            "output                      {ours:.0} MB/s, plain pty {floor:.0} MB/s ({:.0} %)",
            ours / floor * 100.0
        );
    }
    let mut flood = Terminal::open(&sandbox, "yes");
    flood.type_text("yes\n");
    flood.until("y\r\ny\r\n");
    let drain = std::thread::spawn(move || {
        let end = Instant::now() + Duration::from_secs(6);
        while Instant::now() < end {
            flood.next();
        }
    });
    println!("echo beside a `yes`         {}", percentiles(echo(&sandbox, 300)));
    drain.join().expect("the flood is read");
    std::thread::sleep(Duration::from_secs(4));
    println!("memory, afterwards          {}", idle(&sandbox));
}
