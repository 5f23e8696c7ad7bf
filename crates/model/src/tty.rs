//! ttyd's wire protocol, which terminals speak over a WebSocket with the subprotocol `tty`.
//!
//! The client's first message is JSON without a prefix: `{"AuthToken", "columns", "rows"}`. After
//! it each binary message begins with a byte that says what follows
//! (ttyd's `src/server.h`: `INPUT '0'`, `RESIZE_TERMINAL '1'`, `PAUSE '2'`, `RESUME '3'` from the
//! client; `OUTPUT '0'`, `SET_WINDOW_TITLE '1'`, `SET_PREFERENCES '2'` from the server).

use serde::{Deserialize, Serialize};

/// The WebSocket subprotocol.
pub const SUBPROTOCOL: &str = "tty";

pub const OUTPUT: u8 = b'0';
pub const TITLE: u8 = b'1';
pub const PREFERENCES: u8 = b'2';
const INPUT: u8 = b'0';
const RESIZE: u8 = b'1';
const PAUSE: u8 = b'2';
const RESUME: u8 = b'3';
const HELLO: u8 = b'{';

/// Columns and rows of a viewer's window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
}

/// One message from a client.
#[derive(Debug, PartialEq, Eq)]
pub enum ClientMessage<'a> {
    /// The first one.
    Hello {
        token: String,
        size: Option<WindowSize>,
    },
    Input(&'a [u8]),
    Resize(WindowSize),
    Pause,
    Resume,
}

/// A message that is none of the protocol's.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a message of the tty protocol: {0}")]
pub struct InvalidMessage(&'static str);

impl WindowSize {
    /// Sizes of 0 are how a hidden page says that it has none; the upper bound keeps a viewer
    /// from asking the line discipline for absurd widths.
    #[must_use]
    pub fn checked(columns: u16, rows: u16) -> Option<Self> {
        (columns > 0 && rows > 0).then(|| Self {
            columns: columns.min(1000),
            rows: rows.min(1000),
        })
    }
}

/// Reads one client message.
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
        HELLO => serde_json::from_slice::<Hello>(message)
            .map(|hello| ClientMessage::Hello {
                token: hello.token,
                size: WindowSize::checked(hello.columns, hello.rows),
            })
            .map_err(|_| InvalidMessage("the first message is not {\"AuthToken\", \"columns\", \"rows\"}")),
        _ => Err(InvalidMessage("its first byte is unknown")),
    }
}

/// The first message of a client.
#[must_use]
pub fn hello(token: &str, size: WindowSize) -> String {
    serde_json::json!({"AuthToken": token, "columns": size.columns, "rows": size.rows}).to_string()
}

/// A client's input message.
#[must_use]
pub fn input(bytes: &[u8]) -> Vec<u8> {
    [&[INPUT], bytes].concat()
}

/// A client's resize message.
#[must_use]
pub fn resize(size: WindowSize) -> Vec<u8> {
    [&[RESIZE], serde_json::json!(size).to_string().as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_client_writes_is_what_the_server_reads() {
        let size = WindowSize {
            columns: 80,
            rows: 24,
        };
        assert_eq!(
            parse(hello("t", size).as_bytes()),
            Ok(ClientMessage::Hello {
                token: "t".into(),
                size: Some(size)
            })
        );
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
        fn no_message_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }
    }
}
