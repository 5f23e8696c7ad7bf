//! Scrollback: the last output of a terminal, replayed to a viewer that connects late or fell behind.
//!
//! A ring of bytes, addressed by their offset in the terminal's whole output. A viewer holds only
//! such an offset, so any number of viewers, however slow, cost no memory. The modes that evicted
//! output has set are remembered (alternate screen, mouse, …), so that a replay begins in the state
//! in which its first byte was written.

use std::{collections::VecDeque, fmt::Write as _};

use super::sequence::{COPY, Parser, Piece, is_query};

/// Size of the ring in bytes.
pub const CAPACITY: usize = 256 * 1024;
/// Beginning of a sequence without a meaning.
const IGNORED: &[u8] = b"\x1b]9999;";

/// The modes of `CSI ? … h` that change the screen or what keys send, with their defaults: application
/// cursor keys, origin, wrap, cursor, mouse (1000–1006, 1015, 1016), focus, alternate screen,
/// bracketed paste.
const MODES: [(u16, bool); 17] = [
    (1, false),
    (6, false),
    (7, true),
    (25, true),
    (47, false),
    (1000, false),
    (1002, false),
    (1003, false),
    (1004, false),
    (1005, false),
    (1006, false),
    (1015, false),
    (1016, false),
    (1047, false),
    (1048, false),
    (1049, false),
    (2004, false),
];

/// Modes that differ from those of a fresh terminal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Modes {
    /// One bit for each of [`MODES`].
    changed: u32,
    keypad: bool,
}

impl Modes {
    fn apply(&mut self, sequence: &[u8]) {
        match sequence {
            b"\x1bc" | b"\x1b[!p" => *self = Self::default(),
            b"\x1b=" => self.keypad = true,
            b"\x1b>" => self.keypad = false,
            [0x1b, b'[', b'?', numbers @ .., last @ (b'h' | b'l')] => {
                for number in numbers.split(|&byte| byte == b';') {
                    let number = std::str::from_utf8(number)
                        .ok()
                        .and_then(|text| text.parse::<u16>().ok());
                    if let Some(at) = MODES.iter().position(|(mode, _)| Some(*mode) == number) {
                        let differs = (*last == b'h') != MODES[at].1;
                        self.changed = self.changed & !(1 << at) | u32::from(differs) << at;
                    }
                }
            }
            _ => {}
        }
    }

    /// Sequences that set a fresh terminal to these modes.
    fn restore(&self) -> String {
        let mut text = String::new();
        for (at, (mode, default)) in MODES.iter().enumerate() {
            if self.changed & 1 << at != 0 {
                let _ = write!(text, "\x1b[?{mode}{}", if *default { 'l' } else { 'h' });
            }
        }
        if self.keypad {
            text.push_str("\x1b=");
        }
        text
    }
}

/// The ring.
#[derive(Debug, Default)]
pub struct Scrollback {
    bytes: VecDeque<u8>,
    /// Offset of the end of the output.
    end: u64,
    /// Has parsed all evicted output.
    evicted: Parser,
    modes: Modes,
}

impl Scrollback {
    /// The offset after the newest byte.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.end
    }

    /// The offset of the oldest byte in the ring.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.end - self.bytes.len() as u64
    }

    /// Adds output.
    pub fn push(&mut self, output: &[u8]) {
        self.end += output.len() as u64;
        let surplus = (self.bytes.len() + output.len()).saturating_sub(CAPACITY);
        let old = surplus.min(self.bytes.len());
        if old > 0 {
            let (front, back) = self.bytes.as_slices();
            let from_front = old.min(front.len());
            let modes = &mut self.modes;
            self.evicted
                .feed(&front[..from_front], |piece| apply(modes, piece));
            self.evicted
                .feed(&back[..old - from_front], |piece| apply(modes, piece));
            self.bytes.drain(..old);
        }
        let (gone, kept) = output.split_at(surplus - old);
        let modes = &mut self.modes;
        self.evicted.feed(gone, |piece| apply(modes, piece));
        self.reserve(kept.len());
        self.bytes.extend(kept);
    }

    /// Grows by doubling, like a vector, and never beyond the capacity.
    fn reserve(&mut self, more: usize) {
        let needed = self.bytes.len() + more;
        if needed > self.bytes.capacity() {
            let size = needed.next_power_of_two().clamp(4096, CAPACITY);
            self.bytes.reserve_exact(size - self.bytes.len());
        }
    }

    /// Appends the output from offset `from` to `into`, at most `limit` bytes. `None` when it was
    /// evicted; then the viewer needs [`Self::replay`].
    pub fn read(&self, from: u64, limit: usize, into: &mut impl bytes::BufMut) -> Option<usize> {
        let at = usize::try_from(from.checked_sub(self.start())?).ok()?;
        let length = self.bytes.len().checked_sub(at)?.min(limit);
        let (front, back) = self.bytes.as_slices();
        let first = front.get(at..).unwrap_or_default();
        let first = &first[..first.len().min(length)];
        let rest = length - first.len();
        let skip = at.saturating_sub(front.len());
        into.put_slice(first);
        into.put_slice(&back[skip..skip + rest]);
        Some(length)
    }

    /// The whole ring, for a fresh terminal: begins outside of sequences and characters, in the modes
    /// of its first byte, and contains neither a query to the terminal nor a copy to its clipboard.
    #[must_use]
    pub fn replay(&self) -> Vec<u8> {
        let (front, back) = self.bytes.as_slices();
        let (mut parser, mut modes) = (self.evicted.clone(), self.modes.clone());
        let mut parts = [front, back];
        // Skip the end of a sequence whose beginning was evicted.
        for part in &mut parts {
            while !parser.between_sequences() && !part.is_empty() {
                parser.feed(&part[..1], |piece| apply(&mut modes, piece));
                *part = &part[1..];
            }
        }
        let mut replay = Vec::with_capacity(self.bytes.len() + 64);
        replay.extend_from_slice(modes.restore().as_bytes());
        if !parser.between_sequences() {
            return replay;
        }
        let mut first_text = self.start() > 0;
        // A long copy comes in pieces of text.
        let mut copying = false;
        for part in parts {
            parser.feed(part, |piece| match piece {
                Piece::Sequence(sequence) if is_query(sequence) || sequence.starts_with(COPY) => {}
                Piece::Sequence(sequence) => replay.extend_from_slice(sequence),
                Piece::Text(text) if copying || text.starts_with(COPY) => {
                    copying = !matches!(text.last(), Some(0x07 | b'\\' | 0x18 | 0x1a));
                }
                Piece::Text(text) => {
                    let cut = if std::mem::take(&mut first_text) {
                        boundary(text)
                    } else {
                        0
                    };
                    // ENQ is a query as well.
                    replay.extend(text[cut..].iter().filter(|&&byte| byte != 0x05));
                }
            });
        }
        // The rest of an unfinished copy follows: as a sequence that the terminal ignores.
        if copying || parser.unfinished().starts_with(COPY) {
            replay.extend_from_slice(IGNORED);
        } else {
            replay.extend_from_slice(parser.unfinished());
        }
        replay
    }
}

fn apply(modes: &mut Modes, piece: Piece<'_>) {
    if let Piece::Sequence(sequence) = piece {
        modes.apply(sequence);
    }
}

/// Where the first whole character begins.
fn boundary(text: &[u8]) -> usize {
    text.iter()
        .take(3)
        .take_while(|&&byte| byte & 0xC0 == 0x80)
        .count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(bytes: &[u8]) -> String {
        String::from_utf8(bytes.to_vec()).expect("a replay of text is text")
    }

    #[test]
    fn a_replay_equals_the_output_as_long_as_it_fits() {
        let mut scrollback = Scrollback::default();
        scrollback.push(b"$ ls\r\n");
        scrollback.push("é\x1b[31mred".as_bytes());
        assert_eq!(text(&scrollback.replay()), "$ ls\r\né\x1b[31mred");
    }

    #[test]
    fn a_replay_begins_with_a_whole_character() {
        let mut scrollback = Scrollback::default();
        scrollback.push("é".as_bytes());
        scrollback.push(&vec![b'x'; CAPACITY - 1]);
        let replay = scrollback.replay();
        assert_eq!(replay, vec![b'x'; CAPACITY - 1]);
    }

    #[test]
    fn a_replay_begins_outside_of_a_sequence_and_in_its_modes() {
        let mut scrollback = Scrollback::default();
        scrollback.push(b"\x1b[?1049h\x1b[?25l\x1b[1;31");
        scrollback.push(b"mred");
        // Evicts all but the last bytes of the color's sequence.
        scrollback.push(&vec![b'y'; CAPACITY - 5]);
        let replay = text(&scrollback.replay());
        assert!(
            replay.starts_with("\x1b[?25l\x1b[?1049hredy"),
            "{:?}",
            &replay[..40]
        );
    }

    #[test]
    fn a_mode_that_was_left_again_is_not_restored() {
        let mut scrollback = Scrollback::default();
        scrollback.push(b"\x1b[?1049;2004h\x1b[?1049l");
        scrollback.push(&vec![b'y'; CAPACITY]);
        assert!(text(&scrollback.replay()).starts_with("\x1b[?2004hyyy"));
    }

    #[test]
    fn a_replay_copies_nothing() {
        for length in [8, 1000, 1024, 5000, 100_000] {
            for end in ["\x07", "\x1b\\"] {
                let copy = format!("\x1b]52;c;{}", "QUJD".repeat(length / 4));
                let mut scrollback = Scrollback::default();
                scrollback.push(format!("a{copy}{end}b").as_bytes());
                assert_eq!(text(&scrollback.replay()), "ab", "{length}");
                scrollback.push(copy.as_bytes());
                assert_eq!(text(&scrollback.replay()), "ab\x1b]9999;", "{length}");
            }
        }
    }

    #[test]
    fn a_replay_contains_no_query() {
        let mut scrollback = Scrollback::default();
        scrollback.push(b"a\x1b[6nb\x1b]11;?\x07c\x05d\x1b[?u");
        assert_eq!(text(&scrollback.replay()), "abcd");
    }

    proptest! {
        #[test]
        fn a_reader_that_keeps_up_reads_everything(sizes in proptest::collection::vec(1usize..100_000, 1..12)) {
            let mut scrollback = Scrollback::default();
            let (mut position, mut next) = (0, 0u8);
            for size in sizes {
                let output: Vec<u8> = (0..size).map(|_| { next = next.wrapping_add(1); next }).collect();
                scrollback.push(&output);
                let mut read = Vec::new();
                while position < scrollback.end() {
                    position += scrollback.read(position, 30_000, &mut read).expect("it is in the ring") as u64;
                }
                prop_assert_eq!(read, output);
            }
            prop_assert!(scrollback.bytes.len() <= CAPACITY);
        }
    }

    #[test]
    fn evicted_output_cannot_be_read() {
        let mut scrollback = Scrollback::default();
        scrollback.push(&vec![b'x'; CAPACITY * 3]);
        assert_eq!(scrollback.start(), CAPACITY as u64 * 2);
        assert_eq!(scrollback.read(0, 10, &mut Vec::new()), None);
        assert_eq!(scrollback.read(scrollback.end(), 10, &mut Vec::new()), Some(0));
    }
}
