//! Input queue of a terminal client: buffers typed bytes until the session acknowledges them, and resends them after
//! a reconnect. Pure; the caller owns the connection and sends the messages.

use std::collections::VecDeque;

use super::{InputSequence, input};

/// Bytes that are buffered at most; more than a large paste that a busy program does not read.
pub const CAPACITY: usize = 4 * 1024 * 1024;
/// Input bytes in one message. sandboxd accepts 1 MiB.
pub const MESSAGE_BYTES: usize = 64 * 1024;

/// Whether the session acknowledges input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Acknowledges {
    /// No message was received yet.
    Unknown,
    Yes,
    /// An older session: input that was sent cannot be resent, whether or not it arrived.
    No,
}

/// The queue.
#[derive(Debug)]
pub struct InputQueue {
    client: String,
    buffer: VecDeque<u8>,
    /// Sequence number of the first buffered byte.
    first: u64,
    /// The session has all bytes before this sequence number.
    acknowledged: u64,
    /// Number of buffered bytes that were sent on this connection. Bytes that were not sent stay in the buffer even
    /// when they are acknowledged, because the input on one connection has no gaps.
    sent: usize,
    session: Acknowledges,
}

impl InputQueue {
    /// `client`: a unique name.
    #[must_use]
    pub const fn new(client: String) -> Self {
        Self {
            client,
            buffer: VecDeque::new(),
            first: 0,
            acknowledged: 0,
            sent: 0,
            session: Acknowledges::Unknown,
        }
    }

    /// Begins a new connection. Returns what its first message must contain.
    pub fn connect(&mut self) -> InputSequence {
        self.drop_acknowledged();
        self.drop_up_to(self.buffer.len());
        self.sent = 0;
        InputSequence {
            client: self.client.clone(),
            from: self.first,
        }
    }

    /// Adds typed bytes. False when the queue is full; then none of them is added.
    #[must_use]
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        let fits = self.buffer.len() + bytes.len() <= CAPACITY;
        if fits {
            self.buffer.extend(bytes);
        }
        fits
    }

    /// Next message to send on this connection.
    pub fn next_message(&mut self) -> Option<Vec<u8>> {
        let unsent = self.buffer.iter().skip(self.sent);
        let bytes: Vec<u8> = unsent.take(MESSAGE_BYTES).copied().collect();
        if bytes.is_empty() {
            return None;
        }
        self.sent += bytes.len();
        self.drop_acknowledged();
        Some(input(&bytes))
    }

    /// Handles an acknowledgment; `count` is what follows the first byte of a [`super::INPUT_ACK`].
    pub fn acknowledge(&mut self, count: &[u8]) {
        self.session = Acknowledges::Yes;
        let count = std::str::from_utf8(count)
            .ok()
            .and_then(|count| count.parse().ok())
            .unwrap_or(0);
        if count <= self.first + self.buffer.len() as u64 {
            self.acknowledged = self.acknowledged.max(count);
            self.drop_acknowledged();
        }
    }

    /// Handles any other message. A session that acknowledges input does so before it sends anything else.
    pub fn other_message(&mut self) {
        if self.session == Acknowledges::Unknown {
            self.session = Acknowledges::No;
            self.drop_acknowledged();
        }
    }

    /// Drops the acknowledged bytes that were sent on this connection.
    fn drop_acknowledged(&mut self) {
        if self.session == Acknowledges::No {
            self.acknowledged = self.first + self.sent as u64;
        }
        self.drop_up_to(self.sent);
    }

    /// Drops the acknowledged bytes among the first `most`.
    fn drop_up_to(&mut self, most: usize) {
        let acknowledged = usize::try_from(self.acknowledged.saturating_sub(self.first)).unwrap_or(most);
        let gone = acknowledged.min(most);
        self.buffer.drain(..gone);
        self.first += gone as u64;
        self.sent = self.sent.saturating_sub(gone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(text: &str) -> InputQueue {
        let mut queue = InputQueue::new("a".into());
        assert!(queue.push(text.as_bytes()));
        queue
    }

    #[test]
    fn only_input_that_was_not_acknowledged_is_sent_again() {
        let mut queue = typed("hello");
        assert_eq!(queue.connect().from, 0);
        assert_eq!(queue.next_message(), Some(b"0hello".to_vec()));
        assert_eq!(queue.next_message(), None);
        queue.acknowledge(b"0");
        queue.acknowledge(b"3");
        assert!(queue.push(b"!"));
        assert_eq!(queue.connect().from, 3);
        assert_eq!(queue.next_message(), Some(b"0lo!".to_vec()));
        queue.acknowledge(b"6");
        assert_eq!((queue.connect().from, queue.next_message()), (6, None));
    }

    #[test]
    fn input_on_one_connection_has_no_gap_whatever_was_acknowledged_on_the_one_before() {
        let mut queue = typed(&"x".repeat(MESSAGE_BYTES + 5));
        queue.connect();
        while queue.next_message().is_some() {}
        queue.connect();
        assert_eq!(
            queue.next_message().map(|message| message.len()),
            Some(MESSAGE_BYTES + 1)
        );
        // The session read all of it on the old connection.
        queue.acknowledge((MESSAGE_BYTES + 5).to_string().as_bytes());
        assert_eq!(queue.next_message(), Some(b"0xxxxx".to_vec()));
        assert_eq!(queue.next_message(), None);
    }

    #[test]
    fn nothing_is_sent_again_to_a_session_that_does_not_acknowledge() {
        let mut queue = typed("ls\n");
        queue.connect();
        assert!(queue.next_message().is_some());
        queue.other_message();
        assert!(queue.push(b"pwd\n"));
        queue.connect();
        assert_eq!(queue.next_message(), Some(b"0pwd\n".to_vec()));
    }

    #[test]
    fn a_full_queue_refuses_input_and_an_invalid_acknowledgment_is_ignored() {
        let mut queue = typed("a");
        assert!(!queue.push(&vec![0; CAPACITY]));
        queue.connect();
        for count in [&b"99"[..], b"-1", b"", b"x", b"\xff"] {
            queue.acknowledge(count);
        }
        assert_eq!(queue.next_message(), Some(b"0a".to_vec()));
    }
}
