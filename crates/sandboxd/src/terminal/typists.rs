//! What each client that counts its input has typed, so that what it sends again after a lost connection is
//! typed once ([`fsa_model::tty`]).
//!
//! A byte is counted in the moment it is written to the terminal, under one lock with the write. So it does not
//! matter which of a client's connections brings it first: of one that broke off, messages may still be read
//! while the next one is already there.

use std::{collections::HashMap, io};

/// Clients of one session that are remembered. One that is forgotten begins anew where it says that it is.
const REMEMBERED: usize = 256;

/// The counts.
#[derive(Debug, Default)]
pub struct Typists {
    known: HashMap<String, Known>,
    clock: u64,
}

#[derive(Debug)]
struct Known {
    /// The terminal has all bytes before this one.
    taken: u64,
    /// When it was last heard of, by `clock`.
    heard: u64,
}

impl Typists {
    /// A client comes, or comes back: how much of its input the terminal has.
    pub fn arrive(&mut self, client: &str, from: u64) -> u64 {
        let known = self.known(client, from);
        // What it dropped because another session took it is not waited for.
        known.taken = known.taken.max(from);
        known.taken
    }

    /// Writes what of `bytes` was not written before; the first one has the number `at`. How many are done with,
    /// from the first on.
    ///
    /// # Errors
    /// Those of `write`, and then nothing was written.
    pub fn pass(
        &mut self,
        client: &str,
        at: u64,
        bytes: &[u8],
        write: impl FnOnce(&[u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let known = self.known(client, at);
        let before = usize::try_from(known.taken.saturating_sub(at)).unwrap_or(usize::MAX);
        let Some(new @ [_, ..]) = bytes.get(before..) else {
            return Ok(bytes.len());
        };
        let written = write(new)?;
        known.taken = at + (before + written) as u64;
        Ok(before + written)
    }

    fn known(&mut self, client: &str, from: u64) -> &mut Known {
        self.clock += 1;
        let heard = self.clock;
        if self.known.len() >= REMEMBERED && !self.known.contains_key(client) {
            let oldest = self.known.iter().min_by_key(|(_, known)| known.heard);
            if let Some(oldest) = oldest.map(|(client, _)| client.clone()) {
                self.known.remove(&oldest);
            }
        }
        let known = self
            .known
            .entry(client.to_owned())
            .or_insert(Known { taken: from, heard });
        known.heard = heard;
        known
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use fsa_model::tty::{ClientMessage, TAKEN, Typist, keys::Keys, parse, taken};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_client_that_was_forgotten_begins_where_it_is() {
        let mut typists = Typists::default();
        assert_eq!(typists.arrive("first", 7), 7);
        for number in 0..REMEMBERED {
            typists.arrive(&number.to_string(), 0);
        }
        assert_eq!(typists.known.len(), REMEMBERED);
        let mut typed = Vec::new();
        let done = typists.pass("first", 9, b"abc", |bytes| {
            typed.extend_from_slice(bytes);
            Ok(bytes.len())
        });
        assert_eq!((done.ok(), typed.as_slice()), (Some(3), &b"abc"[..]));
        assert_eq!(typists.arrive("first", 9), 12);
    }

    #[test]
    fn what_the_terminal_does_not_take_is_not_counted() {
        let mut typists = Typists::default();
        typists.arrive("a", 0);
        let full = |_: &[u8]| Err(io::Error::from(io::ErrorKind::WouldBlock));
        assert!(typists.pass("a", 0, b"xy", full).is_err());
        assert_eq!(typists.arrive("a", 0), 0);
        assert_eq!(typists.pass("a", 0, b"xy", |_| Ok(1)).ok(), Some(1));
        assert_eq!(typists.pass("a", 0, b"xy", |_| Ok(1)).ok(), Some(2));
        let never = |_: &[u8]| panic!("it was written before");
        assert_eq!(typists.pass("a", 0, b"xy", never).ok(), Some(2));
    }

    /// A connection, as both ends see it: what is under way, and what the session has read and not written yet.
    struct Connection {
        typist: Typist,
        under_way: VecDeque<Vec<u8>>,
        answers: VecDeque<Vec<u8>>,
        waiting: Vec<u8>,
        at: u64,
    }

    #[derive(Clone, Debug)]
    enum Happens {
        Type(usize),
        /// Another connection, with nobody at the client's end of the ones before.
        Lost,
        /// The session reads a message of one of the connections.
        Read(usize),
        /// The terminal takes so many bytes from one of them.
        Take(usize, usize),
        /// The client hears something.
        Heard,
        /// What a connection still has is gone with it.
        Dropped(usize),
    }

    fn happens() -> impl Strategy<Value = Happens> {
        prop_oneof![
            4 => (1_usize..200).prop_map(Happens::Type),
            1 => Just(Happens::Lost),
            6 => (0_usize..3).prop_map(Happens::Read),
            6 => (0_usize..3, 1_usize..60).prop_map(|(which, most)| Happens::Take(which, most)),
            4 => Just(Happens::Heard),
            1 => (0_usize..3).prop_map(Happens::Dropped),
        ]
    }

    #[derive(Default)]
    struct World {
        typists: Typists,
        /// The newest is the last.
        connections: Vec<Connection>,
        terminal: Vec<u8>,
    }

    impl World {
        fn connect(&mut self, keys: &mut Keys) {
            let typist = keys.begin();
            let count = self.typists.arrive(&typist.client, typist.from);
            self.connections.push(Connection {
                at: typist.from,
                typist,
                under_way: VecDeque::new(),
                answers: [taken(count)].into(),
                waiting: Vec::new(),
            });
            self.send(keys);
        }

        fn send(&mut self, keys: &mut Keys) {
            let newest = self.connections.last_mut().expect("a connection");
            newest
                .under_way
                .extend(std::iter::from_fn(|| keys.next_message()));
        }

        /// One of the last three.
        fn chosen(&mut self, which: usize) -> Option<&mut Connection> {
            self.connections.iter_mut().rev().nth(which)
        }

        fn read(&mut self, which: usize) {
            let Some(chosen) = self.chosen(which) else { return };
            if let Some(message) = chosen.under_way.pop_front() {
                let Ok(ClientMessage::Input(bytes)) = parse(&message) else {
                    panic!("only input is sent")
                };
                chosen.waiting.extend_from_slice(bytes);
            }
        }

        fn take(&mut self, which: usize, most: usize) {
            let Self {
                typists,
                connections,
                terminal,
            } = self;
            let Some(chosen) = connections.iter_mut().rev().nth(which) else {
                return;
            };
            if chosen.waiting.is_empty() {
                return;
            }
            let client = &chosen.typist.client;
            let done = typists.pass(client, chosen.at, &chosen.waiting, |bytes| {
                let length = bytes.len().min(most);
                terminal.extend_from_slice(&bytes[..length]);
                Ok(length)
            });
            let done = done.expect("the terminal takes it");
            chosen.waiting.drain(..done);
            chosen.at += done as u64;
            chosen.answers.push_back(taken(chosen.at));
        }

        fn hear(&mut self, keys: &mut Keys) {
            let newest = self.connections.last_mut().expect("a connection");
            if let Some(answer) = newest.answers.pop_front() {
                assert_eq!(answer[0], TAKEN);
                keys.taken(&answer[1..]);
            }
            self.send(keys);
        }
    }

    proptest! {
        #[test]
        fn each_key_is_typed_once_and_in_order_wherever_connections_break(
            story in proptest::collection::vec(happens(), 0..300),
        ) {
            let (mut world, mut keys) = (World::default(), Keys::new("me".into()));
            let mut typed: Vec<u8> = Vec::new();
            world.connect(&mut keys);
            for happening in story {
                match happening {
                    Happens::Type(length) => {
                        let more: Vec<u8> = (typed.len()..typed.len() + length).map(|n| (n % 251) as u8).collect();
                        prop_assert!(keys.push(&more));
                        typed.extend(more);
                        world.send(&mut keys);
                    }
                    Happens::Lost => world.connect(&mut keys),
                    Happens::Read(which) => world.read(which),
                    Happens::Take(which, most) => world.take(which, most),
                    Happens::Heard => world.hear(&mut keys),
                    Happens::Dropped(which) => {
                        // Not the one that the client uses: of that one it would hear.
                        if let Some(chosen) = world.chosen(which + 1) {
                            chosen.under_way.clear();
                            chosen.waiting.clear();
                        }
                    }
                }
                prop_assert!(typed.starts_with(&world.terminal));
            }
            // At last a connection holds.
            world.connect(&mut keys);
            while world.connections.last().is_some_and(|newest| !newest.under_way.is_empty() || !newest.waiting.is_empty()) {
                world.read(0);
                world.take(0, 1000);
                world.hear(&mut keys);
            }
            prop_assert_eq!(&world.terminal, &typed);
        }
    }
}
