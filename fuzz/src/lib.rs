//! Fuzzing harness for the parsers of untrusted bytes: replays a stored corpus, mutates its inputs at random, and
//! continues with each input that led to a new outcome.
//!
//! It runs on the stable compiler, without coverage instrumentation; a parser's outcome ([`Outcome`]) is the feedback
//! instead. An input that fails is written into the corpus, so that every later run begins with it.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hasher as _},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    time::{Duration, Instant},
};

/// Longest input: long enough for some mutations to reach the parsers' own limits.
const LONGEST: usize = 256 * 1024;
/// Maximum inputs in the pool.
const POOL: usize = 2000;
/// Memory limit of the process: a parser that can be made to use more aborts.
const MEMORY: u64 = 3 << 30;

/// Outcome of a parser, without the parts that are specific to the input: equal for inputs that took the same path.
pub type Outcome = String;

/// Length of one target's run; the first limit that is reached ends it.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    pub inputs: u64,
    pub time: Duration,
    pub seed: u64,
}

impl Budget {
    /// A short, deterministic run; with `FSA_FUZZ_SECONDS` a random one of that length.
    #[must_use]
    #[allow(
        clippy::disallowed_methods,
        reason = "this is a separate program with one setting"
    )]
    pub fn of_this_run() -> Self {
        match std::env::var("FSA_FUZZ_SECONDS")
            .ok()
            .and_then(|text| text.parse().ok())
        {
            None => Self {
                inputs: 3000,
                time: Duration::from_millis(1500),
                seed: 1,
            },
            Some(seconds) => Self {
                inputs: u64::MAX,
                time: Duration::from_secs(seconds),
                seed: std::time::SystemTime::now()
                    .duration_since(std::time::UNIX_EPOCH)
                    .map_or(1, |now| now.as_nanos() as u64 | 1),
            },
        }
    }
}

/// Fuzz target: one parser.
pub struct Target {
    name: &'static str,
    seeds: Vec<Vec<u8>>,
    dictionary: Vec<Vec<u8>>,
}

/// Target with the corpus of this name.
#[must_use]
pub const fn target(name: &'static str) -> Target {
    Target {
        name,
        seeds: Vec::new(),
        dictionary: Vec::new(),
    }
}

impl Target {
    /// Inputs to begin with, besides the corpus.
    #[must_use]
    pub fn seeds(mut self, seeds: &[impl AsRef<[u8]>]) -> Self {
        self.seeds = seeds.iter().map(|seed| seed.as_ref().to_vec()).collect();
        self
    }

    /// Tokens of the format.
    #[must_use]
    pub fn dictionary(mut self, dictionary: &[&[u8]]) -> Self {
        self.dictionary = dictionary.iter().map(|word| word.to_vec()).collect();
        self
    }

    /// Runs `property`, which panics if it does not hold, on the corpus, the seeds and their mutations.
    ///
    /// # Panics
    /// The property does not hold; the message has the file with the input.
    pub fn holds(self, property: impl Fn(&[u8]) -> Outcome) {
        let limit = nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_AS, MEMORY, MEMORY);
        limit.expect("a process may limit itself");
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(self.name);
        self.holds_in(&folder, Budget::of_this_run(), property);
    }

    fn holds_in(self, folder: &Path, budget: Budget, property: impl Fn(&[u8]) -> Outcome) {
        let (target, dictionary) = (self.name, self.dictionary);
        let try_it = |input: &[u8]| match catch_unwind(AssertUnwindSafe(|| property(input))) {
            Ok(outcome) => hash(&outcome),
            Err(panic) => {
                let path = folder.join(format!("{:016x}", hash(&input)));
                std::fs::create_dir_all(folder).expect("the corpus can be written");
                std::fs::write(&path, input).expect("the corpus can be written");
                eprintln!("{target}: the property does not hold for {}", path.display());
                std::panic::resume_unwind(panic);
            }
        };
        let mut pool = self.seeds;
        let mut kept: Vec<_> = std::fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .collect();
        kept.sort();
        pool.extend(kept.iter().filter_map(|path| std::fs::read(path).ok()));
        assert!(!pool.is_empty(), "{target} has nothing to begin with");
        let mut seen: HashSet<u64> = pool.iter().map(|input| try_it(input)).collect();
        let mut random = Random(budget.seed);
        let begun = Instant::now();
        let mut tried = 0;
        while tried < budget.inputs && begun.elapsed() < budget.time {
            tried += 1;
            let input = changed(&mut random, &pool, &dictionary);
            if seen.insert(try_it(&input)) && pool.len() < POOL {
                pool.push(input);
            }
        }
        eprintln!(
            "{target}: {tried} inputs, {} ways through it, seed {}",
            seen.len(),
            budget.seed
        );
    }
}

fn hash(value: &impl std::hash::Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// xorshift64*: the same sequence for the same seed, on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, most: usize) -> usize {
        (self.next() >> 16) as usize % most.max(1)
    }
}

/// An input of the pool, mutated a few times.
fn changed(random: &mut Random, pool: &[Vec<u8>], dictionary: &[Vec<u8>]) -> Vec<u8> {
    let mut input = pool[random.below(pool.len())].clone();
    for _ in 0..=random.below(6) {
        change(random, &mut input, pool, dictionary);
    }
    input.truncate(LONGEST);
    input
}

fn change(random: &mut Random, input: &mut Vec<u8>, pool: &[Vec<u8>], dictionary: &[Vec<u8>]) {
    let at = random.below(input.len() + 1);
    let end = at + random.below((input.len() - at).min(64) + 1);
    match random.below(9) {
        0 if at < input.len() => input[at] ^= 1 << random.below(8),
        1 if at < input.len() => {
            input[at] = [0, 1, 0x7f, 0x80, 0xff, b'/', b'.', b'"', b'\n'][random.below(9)]
        }
        2 => drop(input.drain(at..end)),
        3 => input.truncate(at),
        // Repeat a piece, once or many times.
        4 => {
            let piece = input[at..end].to_vec();
            let times = if random.below(50) == 0 {
                3000
            } else {
                1 + random.below(3)
            };
            input.splice(at..at, piece.repeat(times));
        }
        5 if !dictionary.is_empty() => {
            let word = &dictionary[random.below(dictionary.len())];
            input.splice(at..end, word.iter().copied());
        }
        // Digits, for numbers as text.
        6 => {
            let numbers: [&[u8]; 6] = [
                b"0",
                b"-1",
                b"65536",
                b"4294967296",
                b"18446744073709551616",
                b"1e400",
            ];
            let digits = input[at..]
                .iter()
                .take_while(|byte| byte.is_ascii_digit())
                .count();
            let number = numbers[random.below(numbers.len())];
            input.splice(at..at + digits, number.iter().copied());
        }
        7 => {
            let bytes: Vec<u8> = (0..1 + random.below(8)).map(|_| random.next() as u8).collect();
            input.splice(at..end, bytes);
        }
        // The beginning of one input and the end of another.
        _ => {
            let other = &pool[random.below(pool.len())];
            let from = random.below(other.len() + 1);
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_hold_is_found_and_kept_and_tried_first() {
        let folder = tempfile::tempdir().expect("a folder");
        let budget = |inputs| Budget {
            inputs,
            time: Duration::from_secs(60),
            seed: 1,
        };
        let property = |input: &[u8]| {
            assert!(!input.starts_with(b"ab!"), "a defect");
            format!("{:?}", input.get(..2))
        };
        let run = |inputs| {
            let target = target("letters").seeds(&["xx?"]).dictionary(&[b"a", b"b", b"!"]);
            let run = || target.holds_in(folder.path(), budget(inputs), property);
            catch_unwind(AssertUnwindSafe(run))
        };
        assert!(run(200_000).is_err(), "three steps away, and it is found");
        let kept = std::fs::read_dir(folder.path()).expect("the corpus").count();
        assert_eq!(kept, 1);
        assert!(run(0).is_err(), "it is tried before anything else");
    }
}
