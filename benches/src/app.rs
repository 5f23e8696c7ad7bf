//! Application behind the gateway in the benchmark: small responses and 1 MB bodies, as cheap as possible, so
//! that the proxy in front of it is measured.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
};

/// Serves HTTP/1.1 with keep-alive on the loopback, a thread per connection, until it is killed.
pub fn run(port: u16) {
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
    let large: &'static [u8] = answer(&vec![b'x'; 1024 * 1024]).leak();
    let small: &'static [u8] = answer(b"hello, world").leak();
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || serve(stream, small, large));
    }
}

fn answer(body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn serve(mut stream: TcpStream, small: &[u8], large: &[u8]) {
    let _ = stream.set_nodelay(true);
    let mut buffer = Vec::new();
    let mut piece = [0; 8192];
    loop {
        while let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let is_large = buffer.starts_with(b"GET /large");
            buffer.drain(..end + 4);
            if stream.write_all(if is_large { large } else { small }).is_err() {
                return;
            }
        }
        match stream.read(&mut piece) {
            Ok(length @ 1..) => buffer.extend_from_slice(&piece[..length]),
            _ => return,
        }
    }
}
