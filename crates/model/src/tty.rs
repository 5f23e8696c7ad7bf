//! Terminal wire protocol: ttyd's, over a WebSocket with the subprotocol `tty`, with an optional
//! acknowledgment of input.
//!
//! The client's first message is JSON without a prefix: `{"AuthToken", "columns", "rows"}`. After
//! it the first byte of each binary message is the message type
//! (ttyd's `src/server.h`: `INPUT '0'`, `RESIZE_TERMINAL '1'`, `PAUSE '2'`, `RESUME '3'` from the
//! client; `OUTPUT '0'`, `SET_WINDOW_TITLE '1'`, `SET_PREFERENCES '2'` from the server).
//!
//! **Input deduplication: no key is lost or typed twice.** An extension of ttyd's protocol, only for clients that
//! request it. Such a client picks a name that it keeps, numbers the bytes of its input from 0, and buffers its
//! input until the session acknowledges it. Its first message has two more fields: `"client"` (the name: 1 to 64
//! letters, digits, `-` and `_`) and `"from"` (the sequence number of the first input byte on this connection). The
//! input that follows has no gaps. The session sends an acknowledgment before anything else, and after each write to
//! the terminal: the byte `3` and a decimal number, the sequence number of the first byte that the terminal does not
//! have yet. After a lost connection the client reconnects with `from` at the last acknowledged number and resends
//! from there. The session drops the bytes that it has already written, also while it still reads the rest of the
//! old connection. A sandbox of an older version never sends `3`, and then nothing is resent ([`input_queue`]).

pub mod input_queue;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The WebSocket subprotocol.
pub const SUBPROTOCOL: &str = "tty";

pub const OUTPUT: u8 = b'0';
pub const TITLE: u8 = b'1';
/// Acknowledgment: how much of a client's input the terminal has.
pub const INPUT_ACK: u8 = b'3';
const INPUT: u8 = b'0';
const RESIZE: u8 = b'1';
const PAUSE: u8 = b'2';
const RESUME: u8 = b'3';
const HELLO: u8 = b'{';

/// Columns and rows of a viewer's window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WindowSize {
    pub columns: u16,
    pub rows: u16,
}

#[derive(Debug, Deserialize)]
struct Hello {
    #[serde(rename = "AuthToken", default)]
    token: String,
    #[serde(default)]
    columns: u16,
    #[serde(default)]
    rows: u16,
    #[serde(default)]
    client: Option<String>,
    #[serde(default)]
    from: u64,
}

/// Position of a client's input: the client's name, and the sequence number of the first input byte on this
/// connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputSequence {
    pub client: String,
    pub from: u64,
}

impl InputSequence {
    /// Validates the client's name and the sequence number.
    #[must_use]
    pub fn checked(client: String, from: u64) -> Option<Self> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        let named = (1..=64).contains(&client.len()) && client.bytes().all(allowed);
        // JavaScript's Number.MAX_SAFE_INTEGER.
        (named && from < 1 << 53).then_some(Self { client, from })
    }
}

/// Message from a client.
#[derive(Debug, PartialEq, Eq)]
pub enum ClientMessage<'a> {
    /// The first message.
    Hello {
        token: String,
        size: Option<WindowSize>,
        input_sequence: Option<InputSequence>,
    },
    Input(&'a [u8]),
    Resize(WindowSize),
    Pause,
    Resume,
}

/// Message that the protocol does not define.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a message of the tty protocol: {0}")]
pub struct InvalidMessage(&'static str);

impl WindowSize {
    /// A hidden page sends a size of 0; it has none. The upper bound keeps a viewer from setting an
    /// absurd width in the line discipline.
    #[must_use]
    pub fn checked(columns: u16, rows: u16) -> Option<Self> {
        (columns > 0 && rows > 0).then(|| Self {
            columns: columns.min(1000),
            rows: rows.min(1000),
        })
    }
}

/// Parses one client message.
///
/// # Errors
/// [`InvalidMessage`] for an empty message, an unknown first byte or broken JSON.
pub fn parse(message: &[u8]) -> Result<ClientMessage<'_>, InvalidMessage> {
    let (&kind, rest) = message.split_first().ok_or(InvalidMessage("it is empty"))?;
    match kind {
        INPUT => Ok(ClientMessage::Input(rest)),
        RESIZE => serde_json::from_slice::<WindowSize>(rest)
            .ok()
            .and_then(|size| WindowSize::checked(size.columns, size.rows))
            .map(ClientMessage::Resize)
            .ok_or(InvalidMessage("a resize needs {\"columns\", \"rows\"} above 0")),
        PAUSE => Ok(ClientMessage::Pause),
        RESUME => Ok(ClientMessage::Resume),
        HELLO => {
            let hello: Hello = serde_json::from_slice(message).map_err(|_| {
                InvalidMessage("the first message is not {\"AuthToken\", \"columns\", \"rows\"}")
            })?;
            let input_sequence = match hello.client {
                None => None,
                Some(client) => Some(InputSequence::checked(client, hello.from).ok_or(InvalidMessage(
                    "a \"client\" has 1 to 64 letters, digits, `-` and `_`, and \"from\" is a count",
                ))?),
            };
            Ok(ClientMessage::Hello {
                token: hello.token,
                size: WindowSize::checked(hello.columns, hello.rows),
                input_sequence,
            })
        }
        _ => Err(InvalidMessage("its first byte is unknown")),
    }
}

/// First message of a client.
#[must_use]
pub fn hello(token: &str, size: WindowSize) -> String {
    serde_json::json!({"AuthToken": token, "columns": size.columns, "rows": size.rows}).to_string()
}

/// First message of a client that numbers its input.
#[must_use]
pub fn hello_with_input(token: &str, size: WindowSize, input_sequence: &InputSequence) -> String {
    serde_json::json!({
        "AuthToken": token, "columns": size.columns, "rows": size.rows,
        "client": input_sequence.client, "from": input_sequence.from,
    })
    .to_string()
}

/// Acknowledgment message of a session: the terminal has all bytes before `count`.
#[must_use]
pub fn input_ack(count: u64) -> Vec<u8> {
    [&[INPUT_ACK], count.to_string().as_bytes()].concat()
}

/// Input message of a client.
#[must_use]
pub fn input(bytes: &[u8]) -> Vec<u8> {
    [&[INPUT], bytes].concat()
}

/// Resize message of a client.
#[must_use]
pub fn resize(size: WindowSize) -> Vec<u8> {
    [&[RESIZE], serde_json::json!(size).to_string().as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_client_message_is_parsed_as_it_was_written() {
        let size = WindowSize {
            columns: 80,
            rows: 24,
        };
        assert_eq!(
            parse(hello("t", size).as_bytes()),
            Ok(ClientMessage::Hello {
                token: "t".into(),
                size: Some(size),
                input_sequence: None,
            })
        );
        let input_sequence = InputSequence::checked("a-1".into(), 7).unwrap();
        assert_eq!(
            parse(hello_with_input("", size, &input_sequence).as_bytes()),
            Ok(ClientMessage::Hello {
                token: String::new(),
                size: Some(size),
                input_sequence: Some(input_sequence),
            })
        );
        assert!(parse(br#"{"client": "a b"}"#).is_err());
        assert!(parse(br#"{"client": "a", "from": 9007199254740992}"#).is_err());
        assert_eq!(parse(&input(b"ls\n")), Ok(ClientMessage::Input(b"ls\n")));
        assert_eq!(parse(&resize(size)), Ok(ClientMessage::Resize(size)));
        assert_eq!(parse(b"2"), Ok(ClientMessage::Pause));
        assert_eq!(parse(b"3"), Ok(ClientMessage::Resume));
        assert!(parse(b"").is_err());
        assert!(parse(b"1{}").is_err());
        assert!(parse(b"x").is_err());
    }

    proptest! {
        #[test]
        fn no_message_causes_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }
    }
}
