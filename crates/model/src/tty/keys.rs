//! The keys of one client of a terminal, kept until the session has them: the client's half of counted input.
//! Pure; whoever has the connection sends what this gives.

use std::collections::VecDeque;

use super::{Typist, input};

/// Bytes that are kept at most; more than a large paste that a busy program does not read.
pub const KEPT: usize = 4 * 1024 * 1024;
/// Of one message. sandboxd takes 1 MiB.
pub const PIECE: usize = 64 * 1024;

/// What is known of the session's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Session {
    /// Nothing was heard yet.
    Unknown,
    Counts,
    /// It is an older one: what was sent is gone, whether or not it arrived.
    Old,
}

/// The keys.
#[derive(Debug)]
pub struct Keys {
    client: String,
    /// From the byte `first` on.
    kept: VecDeque<u8>,
    first: u64,
    /// The session has all before this one.
    taken: u64,
    /// Of the kept ones, how many this connection was given. They stay until then, because what is sent on a
    /// connection has no gaps.
    sent: usize,
    session: Session,
}

impl Keys {
    /// `client`: a name that nobody else has.
    #[must_use]
    pub const fn new(client: String) -> Self {
        Self {
            client,
            kept: VecDeque::new(),
            first: 0,
            taken: 0,
            sent: 0,
            session: Session::Unknown,
        }
    }

    /// A connection begins; for its first message.
    pub fn begin(&mut self) -> Typist {
        self.forget();
        self.drop_taken(self.kept.len());
        self.sent = 0;
        Typist {
            client: self.client.clone(),
            from: self.first,
        }
    }

    /// Somebody typed. False where too much waits already, and then nothing of it is kept.
    #[must_use]
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        let fits = self.kept.len() + bytes.len() <= KEPT;
        if fits {
            self.kept.extend(bytes);
        }
        fits
    }

    /// The next message for this connection.
    pub fn next_message(&mut self) -> Option<Vec<u8>> {
        let bytes: Vec<u8> = self.kept.iter().skip(self.sent).take(PIECE).copied().collect();
        if bytes.is_empty() {
            return None;
        }
        self.sent += bytes.len();
        self.forget();
        Some(input(&bytes))
    }

    /// What comes after the first byte of a [`super::TAKEN`].
    pub fn taken(&mut self, count: &[u8]) {
        self.session = Session::Counts;
        let count = std::str::from_utf8(count)
            .ok()
            .and_then(|count| count.parse().ok())
            .unwrap_or(0);
        if count <= self.first + self.kept.len() as u64 {
            self.taken = self.taken.max(count);
            self.forget();
        }
    }

    /// Another message came. A session that counts says so before anything else.
    pub fn other(&mut self) {
        if self.session == Session::Unknown {
            self.session = Session::Old;
            self.forget();
        }
    }

    /// The shell has ended: what was sent was for it, and not for the next one.
    pub fn end(&mut self) {
        self.taken = self.taken.max(self.first + self.sent as u64);
        self.forget();
    }

    /// Drops what is of no more use on this connection.
    fn forget(&mut self) {
        if self.session == Session::Old {
            self.taken = self.first + self.sent as u64;
        }
        self.drop_taken(self.sent);
    }

    fn drop_taken(&mut self, most: usize) {
        let taken = usize::try_from(self.taken.saturating_sub(self.first)).unwrap_or(most);
        let gone = taken.min(most);
        self.kept.drain(..gone);
        self.first += gone as u64;
        self.sent = self.sent.saturating_sub(gone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(text: &str) -> Keys {
        let mut keys = Keys::new("a".into());
        assert!(keys.push(text.as_bytes()));
        keys
    }

    #[test]
    fn what_was_not_taken_is_sent_again_and_nothing_else() {
        let mut keys = typed("hello");
        assert_eq!(keys.begin().from, 0);
        assert_eq!(keys.next_message(), Some(b"0hello".to_vec()));
        assert_eq!(keys.next_message(), None);
        keys.taken(b"0");
        keys.taken(b"3");
        assert!(keys.push(b"!"));
        assert_eq!(keys.begin().from, 3);
        assert_eq!(keys.next_message(), Some(b"0lo!".to_vec()));
        keys.taken(b"6");
        assert_eq!((keys.begin().from, keys.next_message()), (6, None));
    }

    #[test]
    fn on_one_connection_there_is_no_gap_whatever_was_taken_of_the_one_before() {
        let mut keys = typed(&"x".repeat(PIECE + 5));
        keys.begin();
        while keys.next_message().is_some() {}
        keys.begin();
        assert_eq!(keys.next_message().map(|message| message.len()), Some(PIECE + 1));
        // The old connection brought all of it.
        keys.taken((PIECE + 5).to_string().as_bytes());
        assert_eq!(keys.next_message(), Some(b"0xxxxx".to_vec()));
        assert_eq!(keys.next_message(), None);
    }

    #[test]
    fn of_a_session_that_does_not_count_nothing_is_sent_again() {
        let mut keys = typed("ls\n");
        keys.begin();
        assert!(keys.next_message().is_some());
        keys.other();
        assert!(keys.push(b"pwd\n"));
        keys.begin();
        assert_eq!(keys.next_message(), Some(b"0pwd\n".to_vec()));
    }

    #[test]
    fn what_a_shell_did_not_read_before_its_end_is_not_for_the_next_one() {
        let mut keys = typed("exit\nrm x\n");
        keys.begin();
        assert!(keys.next_message().is_some());
        keys.taken(b"5");
        assert!(keys.push(b"later"));
        keys.end();
        keys.begin();
        assert_eq!(keys.next_message(), Some(b"0later".to_vec()));
    }

    #[test]
    fn no_more_is_kept_than_there_is_room_for_and_nonsense_changes_nothing() {
        let mut keys = typed("a");
        assert!(!keys.push(&vec![0; KEPT]));
        keys.begin();
        for count in [&b"99"[..], b"-1", b"", b"x", b"\xff"] {
            keys.taken(count);
        }
        assert_eq!(keys.next_message(), Some(b"0a".to_vec()));
    }
}
