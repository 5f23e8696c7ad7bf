//! Terminal messages and output, and tunnel targets.

use fsa_fuzz::target;
use fsa_model::tty;
use fsa_sandboxd::{
    terminal::{scrollback::Scrollback, sequence::Parser},
    tunnel,
};

use crate::error_text;

/// Messages of a terminal's viewer: an accepted size is valid, and input is unchanged.
#[test]
fn terminal_messages() {
    target("terminal-messages")
        .seeds(&[
            r#"{"AuthToken":"t","columns":80,"rows":24}"#,
            "0ls -l\r",
            r#"1{"columns":120,"rows":40}"#,
            "2",
            "3",
        ])
        .dictionary(&[
            b"\"columns\":",
            b"\"rows\":",
            b"\"AuthToken\":",
            b"\"client\":",
            b"\"from\":",
            b"{",
            b"}",
            b"1",
            b"0",
        ])
        .check(|bytes| match tty::parse(bytes) {
            Ok(tty::ClientMessage::Input(input)) => {
                assert_eq!(tty::input(input), bytes);
                "input".into()
            }
            Ok(tty::ClientMessage::Resize(size)) => {
                assert!((1..=1000).contains(&size.columns) && (1..=1000).contains(&size.rows));
                assert_eq!(
                    tty::parse(&tty::resize(size)),
                    Ok(tty::ClientMessage::Resize(size))
                );
                "resize".into()
            }
            Ok(tty::ClientMessage::Hello {
                token,
                size,
                input_sequence,
            }) => {
                if let (Some(size), Some(input_sequence)) = (size, &input_sequence) {
                    let again = tty::hello_with_input(&token, size, input_sequence);
                    let read = tty::parse(again.as_bytes()).map(|read| format!("{read:?}"));
                    assert_eq!(read, tty::parse(bytes).map(|read| format!("{read:?}")));
                }
                format!(
                    "hello {} {} {}",
                    token.is_empty(),
                    size.is_some(),
                    input_sequence.is_some()
                )
            }
            Ok(other) => format!("{other:?}"),
            Err(error) => error_text(&error),
        });
}

/// Terminal output: the scrollback does not depend on how the bytes are split, and stays within its bound.
#[test]
fn terminal_output() {
    target("terminal-output")
        .seeds(&[
            "plain\r\n",
            "\x1b[31mred\x1b[0m",
            "\x1b]0;title\x07",
            "\x1bP1$q\x1b\\",
            "\x1b[?1049h\x1b[6n",
            "\u{9b}1m\u{1f600}",
        ])
        .dictionary(&[
            b"\x1b",
            b"\x1b[",
            b"\x1b]",
            b"\x07",
            b"\x1b\\",
            b"?25h",
            b"\x9b",
            b"\xf0\x9f",
        ])
        .check(|bytes| {
            let (mut whole, mut pieces) = (Scrollback::default(), Scrollback::default());
            whole.push(bytes);
            for piece in bytes.chunks(7) {
                pieces.push(piece);
            }
            assert_eq!(whole.replay(), pieces.replay());
            assert_eq!(whole.end(), bytes.len() as u64);
            let kept = whole.end() - whole.start();
            assert!(kept <= 256 * 1024, "{kept}");
            let (mut parser, mut kinds) = (Parser::default(), Vec::new());
            parser.feed(bytes, |piece| {
                let name = format!("{piece:?}");
                kinds.push(name.chars().take(6).collect::<String>());
            });
            kinds.dedup();
            kinds.truncate(12);
            format!("{kinds:?} {}", parser.between_sequences())
        });
}

/// Tunnel targets: loopback addresses only.
#[test]
fn connect_targets() {
    target("connect-targets")
        .seeds(&[
            "127.0.0.1:3000",
            "localhost:80",
            "[::1]:5173",
            "169.254.169.254:80",
            "a@localhost:1",
        ])
        .dictionary(&[b"127.0.0.1", b"localhost", b"[::1]", b":", b"@", b"%", b"0x7f.1"])
        .check(|bytes| {
            // Parsed by the server's HTTP library.
            let Ok(uri) = http::Uri::try_from(bytes) else {
                return "no address".into();
            };
            let Some((host, port)) = uri
                .authority()
                .and_then(|authority| Some((authority.host(), authority.port_u16()?)))
            else {
                return "no host or port".into();
            };
            match tunnel::addresses(host, port) {
                Ok(found) => {
                    assert!(!found.is_empty());
                    assert!(
                        found
                            .iter()
                            .all(|address| address.ip().is_loopback() && address.port() == port)
                    );
                    format!("{}", found[0].ip())
                }
                Err(error) => error.status.to_string(),
            }
        });
}
