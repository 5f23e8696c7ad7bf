//! ttyd's wire protocol, which terminals speak over a WebSocket with the subprotocol `tty`.
//!
//! The client's first message is JSON without a prefix: `{"AuthToken", "columns", "rows"}`. After
//! it each binary message begins with a byte that says what follows
//! (ttyd's `src/server.h`: `INPUT '0'`, `RESIZE_TERMINAL '1'`, `PAUSE '2'`, `RESUME '3'` from the
//! client; `OUTPUT '0'`, `SET_WINDOW_TITLE '1'`, `SET_PREFERENCES '2'` from the server).
//!
//! **No key is lost or typed twice.** Ours beside ttyd's, for clients that ask for it and nobody else. Such a
//! client gives itself a name for its life, counts the bytes of its input from 0, and keeps what it typed until it
//! hears that the terminal has it. Its first message has two fields more, `"client"` (the name: 1 to 64 letters,
//! digits, `-` and `_`) and `"from"`: the number of the byte with which its input on this connection begins; what
//! follows is plain input, without gaps. The session answers before anything else, and after each write to the
//! terminal, with the byte `3` and a decimal number: it has all bytes of this client before that one. After a
//! connection that broke off the client comes back with `from` at the last such number, and sends from there;
//! the session leaves out what it has taken since, also while it still reads what the old connection brought.
//! A sandbox of an older version never sends `3`, and then nothing is sent again ([`keys`]).

pub mod keys;

use serde::{Deserialize, Serialize};

/// The WebSocket subprotocol.
pub const SUBPROTOCOL: &str = "tty";

pub const OUTPUT: u8 = b'0';
pub const TITLE: u8 = b'1';
pub const PREFERENCES: u8 = b'2';
/// How much of a client's counted input the terminal has.
pub const TAKEN: u8 = b'3';
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
    #[serde(default)]
    client: Option<String>,
    #[serde(default)]
    from: u64,
}

/// Who counts its input, and where it begins on this connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Typist {
    pub client: String,
    pub from: u64,
}

impl Typist {
    /// One with a name that is allowed.
    #[must_use]
    pub fn checked(client: String, from: u64) -> Option<Self> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        let named = (1..=64).contains(&client.len()) && client.bytes().all(allowed);
        // What a number in JavaScript can count.
        (named && from < 1 << 53).then_some(Self { client, from })
    }
}

/// One message from a client.
#[derive(Debug, PartialEq, Eq)]
pub enum ClientMessage<'a> {
    /// The first one.
    Hello {
        token: String,
        size: Option<WindowSize>,
        typist: Option<Typist>,
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
        HELLO => {
            let hello: Hello = serde_json::from_slice(message).map_err(|_| {
                InvalidMessage("the first message is not {\"AuthToken\", \"columns\", \"rows\"}")
            })?;
            let typist = match hello.client {
                None => None,
                Some(client) => Some(Typist::checked(client, hello.from).ok_or(InvalidMessage(
                    "a \"client\" has 1 to 64 letters, digits, `-` and `_`, and \"from\" is a count",
                ))?),
            };
            Ok(ClientMessage::Hello {
                token: hello.token,
                size: WindowSize::checked(hello.columns, hello.rows),
                typist,
            })
        }
        _ => Err(InvalidMessage("its first byte is unknown")),
    }
}

/// The first message of a client.
#[must_use]
pub fn hello(token: &str, size: WindowSize) -> String {
    serde_json::json!({"AuthToken": token, "columns": size.columns, "rows": size.rows}).to_string()
}

/// The first message of a client that counts its input.
#[must_use]
pub fn hello_of(token: &str, size: WindowSize, typist: &Typist) -> String {
    serde_json::json!({
        "AuthToken": token, "columns": size.columns, "rows": size.rows,
        "client": typist.client, "from": typist.from,
    })
    .to_string()
}

/// A session's message of how much it has taken.
#[must_use]
pub fn taken(count: u64) -> Vec<u8> {
    [&[TAKEN], count.to_string().as_bytes()].concat()
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
                size: Some(size),
                typist: None,
            })
        );
        let typist = Typist::checked("a-1".into(), 7).unwrap();
        assert_eq!(
            parse(hello_of("", size, &typist).as_bytes()),
            Ok(ClientMessage::Hello {
                token: String::new(),
                size: Some(size),
                typist: Some(typist),
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
        fn no_message_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }
    }
}
