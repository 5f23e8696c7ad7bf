//! Input deduplication: input that a client resends after a lost connection is written to the terminal once
//! ([`fsa_model::tty`]).
//!
//! A byte counts as taken at the moment it is written to the terminal, under one lock with the write. So it does not
//! matter which of a client's connections brings it first: messages of a broken connection may still be read while
//! the next connection is already open.

use std::{collections::HashMap, io};

/// Clients that one session remembers. A client that was forgotten begins at the sequence number that it sends.
const MAX_CLIENTS: usize = 256;

/// Progress of each client's input.
#[derive(Debug, Default)]
pub struct InputDedup {
    clients: HashMap<String, ClientProgress>,
    clock: u64,
}

#[derive(Debug)]
struct ClientProgress {
    /// The terminal has all bytes before this one.
    written: u64,
    /// When the client last connected or typed, by `clock`.
    last_used: u64,
}

impl InputDedup {
    /// Registers a client that connects or reconnects. Returns how much of its input the terminal has.
    pub fn connect(&mut self, client: &str, from: u64) -> u64 {
        let progress = self.progress(client, from);
        // The client has dropped input before `from` because another session took it; do not wait for it.
        progress.written = progress.written.max(from);
        progress.written
    }

    /// Writes the part of `bytes` that was not written before; `at` is the sequence number of the first byte.
    /// Returns how many bytes, from the first on, are done.
    ///
    /// # Errors
    /// Those of `write`, and then nothing was written.
    pub fn write(
        &mut self,
        client: &str,
        at: u64,
        bytes: &[u8],
        write: impl FnOnce(&[u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let progress = self.progress(client, at);
        let before = usize::try_from(progress.written.saturating_sub(at)).unwrap_or(usize::MAX);
        let Some(new @ [_, ..]) = bytes.get(before..) else {
            return Ok(bytes.len());
        };
        let written = write(new)?;
        progress.written = at + (before + written) as u64;
        Ok(before + written)
    }

    fn progress(&mut self, client: &str, from: u64) -> &mut ClientProgress {
        self.clock += 1;
        let now = self.clock;
        if self.clients.len() >= MAX_CLIENTS && !self.clients.contains_key(client) {
            let oldest = self.clients.iter().min_by_key(|(_, progress)| progress.last_used);
            if let Some(oldest) = oldest.map(|(client, _)| client.clone()) {
                self.clients.remove(&oldest);
            }
        }
        let progress = self.clients.entry(client.to_owned()).or_insert(ClientProgress {
            written: from,
            last_used: now,
        });
        progress.last_used = now;
        progress
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use fsa_model::tty::{
        ClientMessage, INPUT_ACK, InputSequence, input_ack, input_queue::InputQueue, parse,
    };
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_forgotten_client_begins_at_its_own_sequence_number() {
        let mut dedup = InputDedup::default();
        assert_eq!(dedup.connect("first", 7), 7);
        for number in 0..MAX_CLIENTS {
            dedup.connect(&number.to_string(), 0);
        }
        assert_eq!(dedup.clients.len(), MAX_CLIENTS);
        let mut typed = Vec::new();
        let done = dedup.write("first", 9, b"abc", |bytes| {
            typed.extend_from_slice(bytes);
            Ok(bytes.len())
        });
        assert_eq!((done.ok(), typed.as_slice()), (Some(3), &b"abc"[..]));
        assert_eq!(dedup.connect("first", 9), 12);
    }

    #[test]
    fn input_that_was_not_written_is_not_acknowledged() {
        let mut dedup = InputDedup::default();
        dedup.connect("a", 0);
        let full = |_: &[u8]| Err(io::Error::from(io::ErrorKind::WouldBlock));
        assert!(dedup.write("a", 0, b"xy", full).is_err());
        assert_eq!(dedup.connect("a", 0), 0);
        assert_eq!(dedup.write("a", 0, b"xy", |_| Ok(1)).ok(), Some(1));
        assert_eq!(dedup.write("a", 0, b"xy", |_| Ok(1)).ok(), Some(2));
        let never = |_: &[u8]| panic!("written twice");
        assert_eq!(dedup.write("a", 0, b"xy", never).ok(), Some(2));
    }

    /// Connection, as both ends see it: messages in flight, and input that the session has read and not written yet.
    struct Connection {
        input_sequence: InputSequence,
        in_flight: VecDeque<Vec<u8>>,
        answers: VecDeque<Vec<u8>>,
        waiting: Vec<u8>,
        at: u64,
    }

    #[derive(Clone, Debug)]
    enum Step {
        Type(usize),
        /// The client reconnects, and no longer reads the older connections.
        Lost,
        /// The session reads a message of one of the connections.
        Read(usize),
        /// The terminal accepts so many bytes from one of them.
        Take(usize, usize),
        /// The client receives a message.
        Received,
        /// A connection loses everything that it still carries.
        Dropped(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (1_usize..200).prop_map(Step::Type),
            1 => Just(Step::Lost),
            6 => (0_usize..3).prop_map(Step::Read),
            6 => (0_usize..3, 1_usize..60).prop_map(|(which, most)| Step::Take(which, most)),
            4 => Just(Step::Received),
            1 => (0_usize..3).prop_map(Step::Dropped),
        ]
    }

    #[derive(Default)]
    struct World {
        input_dedup: InputDedup,
        /// The newest is the last.
        connections: Vec<Connection>,
        terminal: Vec<u8>,
    }

    impl World {
        fn connect(&mut self, keys: &mut InputQueue) {
            let input_sequence = keys.connect();
            let count = self
                .input_dedup
                .connect(&input_sequence.client, input_sequence.from);
            self.connections.push(Connection {
                at: input_sequence.from,
                input_sequence,
                in_flight: VecDeque::new(),
                answers: [input_ack(count)].into(),
                waiting: Vec::new(),
            });
            self.send(keys);
        }

        fn send(&mut self, keys: &mut InputQueue) {
            let newest = self.connections.last_mut().expect("a connection");
            newest
                .in_flight
                .extend(std::iter::from_fn(|| keys.next_message()));
        }

        /// One of the last three.
        fn chosen(&mut self, which: usize) -> Option<&mut Connection> {
            self.connections.iter_mut().rev().nth(which)
        }

        fn read(&mut self, which: usize) {
            let Some(chosen) = self.chosen(which) else { return };
            if let Some(message) = chosen.in_flight.pop_front() {
                let Ok(ClientMessage::Input(bytes)) = parse(&message) else {
                    panic!("only input is sent")
                };
                chosen.waiting.extend_from_slice(bytes);
            }
        }

        fn take(&mut self, which: usize, most: usize) {
            let Self {
                input_dedup,
                connections,
                terminal,
            } = self;
            let Some(chosen) = connections.iter_mut().rev().nth(which) else {
                return;
            };
            if chosen.waiting.is_empty() {
                return;
            }
            let client = &chosen.input_sequence.client;
            let done = input_dedup.write(client, chosen.at, &chosen.waiting, |bytes| {
                let length = bytes.len().min(most);
                terminal.extend_from_slice(&bytes[..length]);
                Ok(length)
            });
            let done = done.expect("the terminal accepts it");
            chosen.waiting.drain(..done);
            chosen.at += done as u64;
            chosen.answers.push_back(input_ack(chosen.at));
        }

        fn receive(&mut self, keys: &mut InputQueue) {
            let newest = self.connections.last_mut().expect("a connection");
            if let Some(answer) = newest.answers.pop_front() {
                assert_eq!(answer[0], INPUT_ACK);
                keys.acknowledge(&answer[1..]);
            }
            self.send(keys);
        }
    }

    proptest! {
        #[test]
        fn each_key_is_written_once_and_in_order_wherever_connections_break(
            story in proptest::collection::vec(step(), 0..300),
        ) {
            let (mut world, mut keys) = (World::default(), InputQueue::new("me".into()));
            let mut typed: Vec<u8> = Vec::new();
            world.connect(&mut keys);
            for step in story {
                match step {
                    Step::Type(length) => {
                        let more: Vec<u8> = (typed.len()..typed.len() + length).map(|n| (n % 251) as u8).collect();
                        prop_assert!(keys.push(&more));
                        typed.extend(more);
                        world.send(&mut keys);
                    }
                    Step::Lost => world.connect(&mut keys),
                    Step::Read(which) => world.read(which),
                    Step::Take(which, most) => world.take(which, most),
                    Step::Received => world.receive(&mut keys),
                    Step::Dropped(which) => {
                        // Not the connection that the client uses: the client would notice.
                        if let Some(chosen) = world.chosen(which + 1) {
                            chosen.in_flight.clear();
                            chosen.waiting.clear();
                        }
                    }
                }
                prop_assert!(typed.starts_with(&world.terminal));
            }
            // Finally one connection lasts.
            world.connect(&mut keys);
            while world.connections.last().is_some_and(|newest| !newest.in_flight.is_empty() || !newest.waiting.is_empty()) {
                world.read(0);
                world.take(0, 1000);
                world.receive(&mut keys);
            }
            prop_assert_eq!(&world.terminal, &typed);
        }
    }
}
