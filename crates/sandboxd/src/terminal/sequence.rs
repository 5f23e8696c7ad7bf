//! Escape sequence parser: splits a stream of terminal output into text and control sequences.
//!
//! Parses only the outer form of sequences (ECMA-48, and xterm's strings that end with BEL): enough
//! to find titles, to track modes, to leave out queries, and never to begin a replay in the middle
//! of a sequence.
//!
//! Compared with `vte` (the parser of Alacritty), which calls back for each printed character and
//! for each dispatched sequence with its parameters decoded. The scrollback needs the opposite: the
//! original bytes of each sequence, to repeat them in a replay, text in slices found by `memchr`,
//! and the bytes of an incomplete sequence at any cut of the stream. On top of `vte` those would
//! have to be rebuilt from the callbacks.

/// Part of a stream of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Has no escape character, unless it belongs to a sequence longer than [`MAX_SEQUENCE_BYTES`].
    Text(&'a [u8]),
    /// Complete sequence, from its escape character to its last byte.
    Sequence(&'a [u8]),
}

/// Bytes of the longest sequence that is buffered; a longer one (an image) is passed on as text.
const MAX_SEQUENCE_BYTES: usize = 1024;
const ESCAPE: u8 = 0x1b;
const BELL: u8 = 0x07;
/// CAN and SUB end any sequence without effect.
const CANCEL: [u8; 2] = [0x18, 0x1a];

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Text,
    /// After the escape character.
    Escape,
    /// After `ESC [`, up to the final byte.
    Control,
    /// After `ESC ]`, `ESC P`, `ESC X`, `ESC ^` or `ESC _`, up to `ESC \` (or BEL).
    String,
    /// In a string, after an escape character.
    StringEscape,
}

/// Incremental parser.
#[derive(Clone, Debug, Default)]
pub struct Parser {
    state: State,
    buffer: Vec<u8>,
    too_long: bool,
}

impl Parser {
    /// Whether the stream is outside of a sequence.
    #[must_use]
    pub fn between_sequences(&self) -> bool {
        self.state == State::Text
    }

    /// Parses the next bytes, and calls `each` for every piece that they complete.
    pub fn feed(&mut self, mut bytes: &[u8], mut each: impl FnMut(Piece<'_>)) {
        while !bytes.is_empty() {
            if self.state == State::Text {
                let text = memchr::memchr(ESCAPE, bytes).unwrap_or(bytes.len());
                if text > 0 {
                    each(Piece::Text(&bytes[..text]));
                }
                bytes = &bytes[text..];
                if !bytes.is_empty() {
                    self.begin();
                    bytes = &bytes[1..];
                }
                continue;
            }
            let (byte, rest) = (bytes[0], &bytes[1..]);
            bytes = rest;
            self.buffer(byte, &mut each);
            if self.step(byte) {
                self.state = State::Text;
                if self.too_long {
                    each(Piece::Text(&self.buffer));
                } else {
                    each(Piece::Sequence(&self.buffer));
                }
                self.buffer.clear();
            }
        }
    }

    /// The bytes of an incomplete sequence.
    #[must_use]
    pub fn unfinished(&self) -> &[u8] {
        &self.buffer
    }

    fn begin(&mut self) {
        self.state = State::Escape;
        self.too_long = false;
        self.buffer.clear();
        self.buffer.push(ESCAPE);
    }

    fn buffer(&mut self, byte: u8, each: &mut impl FnMut(Piece<'_>)) {
        if self.buffer.len() == MAX_SEQUENCE_BYTES {
            each(Piece::Text(&self.buffer));
            self.buffer.clear();
            self.too_long = true;
        }
        self.buffer.push(byte);
    }

    /// Advances the state. Whether `byte` is the last one of the sequence.
    fn step(&mut self, byte: u8) -> bool {
        if CANCEL.contains(&byte) {
            return true;
        }
        match (self.state, byte) {
            (State::Escape, b'[') => self.state = State::Control,
            (State::Escape, b']' | b'P' | b'X' | b'^' | b'_') => self.state = State::String,
            (State::Escape | State::Control | State::StringEscape, ESCAPE) => {}
            // Intermediate bytes, and control characters, which act at once and belong to no sequence.
            (State::Escape, 0..=0x2f) => {}
            (State::Control, 0..=0x3f) => {}
            (State::String, BELL) => return true,
            (State::String, ESCAPE) => self.state = State::StringEscape,
            (State::String, _) => {}
            (State::StringEscape, b'\\') => return true,
            (State::StringEscape, _) => self.state = State::String,
            (State::Escape | State::Control, _) => return true,
            (State::Text, _) => {}
        }
        false
    }
}

/// The title that a sequence sets (`OSC 0` and `OSC 2`).
#[must_use]
pub fn title(sequence: &[u8]) -> Option<String> {
    let rest = sequence
        .strip_prefix(b"\x1b]0;")
        .or_else(|| sequence.strip_prefix(b"\x1b]2;"))?;
    let text = rest
        .strip_suffix(b"\x07")
        .or_else(|| rest.strip_suffix(b"\x1b\\"))?;
    let text = String::from_utf8_lossy(text);
    Some(
        text.chars()
            .filter(|character| !character.is_control())
            .take(200)
            .collect(),
    )
}

/// Whether the terminal answers this sequence. In a replay no program waits for the answer, and the
/// shell would get it as typed input.
#[must_use]
pub fn is_query(sequence: &[u8]) -> bool {
    let Some((&last, _)) = sequence.split_last() else {
        return false;
    };
    match sequence.get(1) {
        // Identity, position, sizes, modes, settings, key protocol: `CSI … c|n|x|p|q|u|t`.
        Some(b'[') => {
            let body = &sequence[2..sequence.len() - 1];
            match last {
                b'c' | b'n' | b'x' => true,
                b'p' => body.ends_with(b"$"),
                b'q' => body.starts_with(b">"),
                b'u' => body.starts_with(b"?"),
                b't' => {
                    let number = body
                        .split(|&byte| byte == b';')
                        .next()
                        .and_then(|text| std::str::from_utf8(text).ok()?.parse::<u32>().ok());
                    matches!(number, Some(11..=21))
                }
                _ => false,
            }
        }
        // Colors, clipboard: `OSC number ; ?`.
        Some(b']') => {
            let text = sequence
                .strip_suffix(b"\x07")
                .or_else(|| sequence.strip_suffix(b"\x1b\\"));
            text.is_some_and(|text| text.ends_with(b";?"))
        }
        // Settings and capabilities: `DCS $ q …`, `DCS + q …`.
        Some(b'P') => matches!(sequence.get(2..4), Some(b"$q" | b"+q")),
        Some(b'Z') => true,
        _ => false,
    }
}

/// Beginning of a sequence that copies text to the viewer's clipboard (`OSC 52`). In a replay it would replace what the
/// viewer has copied since.
pub const COPY: &[u8] = b"\x1b]52;";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(parser: &mut Parser, bytes: &[u8]) -> Vec<(bool, Vec<u8>)> {
        let mut pieces = Vec::new();
        parser.feed(bytes, |piece| {
            pieces.push(match piece {
                Piece::Text(text) => (false, text.to_vec()),
                Piece::Sequence(sequence) => (true, sequence.to_vec()),
            });
        });
        pieces
    }

    #[test]
    fn text_and_sequences_are_separated() {
        let pieces = read(
            &mut Parser::default(),
            b"a\x1b[1;31mb\x1b]0;t\x07\x1b]2;u\x1b\\c\x1b(B\x1bM",
        );
        let sequences: Vec<_> = pieces
            .iter()
            .filter(|(is, _)| *is)
            .map(|(_, bytes)| bytes.as_slice())
            .collect();
        assert_eq!(
            sequences,
            [
                &b"\x1b[1;31m"[..],
                b"\x1b]0;t\x07",
                b"\x1b]2;u\x1b\\",
                b"\x1b(B",
                b"\x1bM"
            ]
        );
    }

    #[test]
    fn titles_are_parsed_and_control_characters_removed() {
        assert_eq!(title(b"\x1b]0;dev: ~\x07").as_deref(), Some("dev: ~"));
        assert_eq!(title("\x1b]2;hé\x1b\\".as_bytes()).as_deref(), Some("hé"));
        assert_eq!(title(b"\x1b]0;a\nb\x07").as_deref(), Some("ab"));
        assert_eq!(title(b"\x1b]4;0;?\x07"), None);
    }

    #[test]
    fn queries_are_recognized_and_other_sequences_are_not() {
        for query in [
            &b"\x1b[c"[..],
            b"\x1b[>c",
            b"\x1b[6n",
            b"\x1b[?6n",
            b"\x1b[?2026$p",
            b"\x1b[>q",
            b"\x1b[?u",
            b"\x1b[14t",
            b"\x1b]11;?\x07",
            b"\x1b]10;?\x1b\\",
            b"\x1bP$qm\x1b\\",
            b"\x1bP+q544e\x1b\\",
            b"\x1bZ",
        ] {
            assert!(is_query(query), "{}", query.escape_ascii());
        }
        for command in [
            &b"\x1b[m"[..],
            b"\x1b[2J",
            b"\x1b[?1049h",
            b"\x1b[!p",
            b"\x1b[4 q",
            b"\x1b[u",
            b"\x1b[>1u",
            b"\x1b[8;24;80t",
            b"\x1b[22;0t",
            b"\x1b]0;what?\x07",
            b"\x1bPq#0\x1b\\",
            b"\x1b=",
        ] {
            assert!(!is_query(command), "{}", command.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn no_byte_is_lost_and_the_pieces_do_not_depend_on_the_cuts(
            bytes in proptest::collection::vec(prop_oneof![Just(0x1b), Just(b'['), Just(b']'), Just(b'm'), Just(7), any::<u8>()], 0..60),
            cut in 0usize..60,
        ) {
            let mut whole = Parser::default();
            let expected: Vec<_> = read(&mut whole, &bytes).into_iter().filter(|(is, _)| *is).collect();
            let mut parser = Parser::default();
            let cut = cut.min(bytes.len());
            let mut pieces = read(&mut parser, &bytes[..cut]);
            pieces.extend(read(&mut parser, &bytes[cut..]));
            let mut all: Vec<u8> = pieces.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
            all.extend_from_slice(parser.unfinished());
            prop_assert_eq!(all, bytes);
            let found: Vec<_> = pieces.into_iter().filter(|(is, _)| *is).collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_sequence_without_end_is_buffered_up_to_a_bound() {
        let mut parser = Parser::default();
        let image = [&b"\x1bPq"[..], &vec![b'#'; 100_000]].concat();
        let passed: usize = read(&mut parser, &image)
            .iter()
            .map(|(_, bytes)| bytes.len())
            .sum();
        assert!(parser.unfinished().len() <= MAX_SEQUENCE_BYTES);
        assert_eq!(passed + parser.unfinished().len(), image.len());
    }
}
