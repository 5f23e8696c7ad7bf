//! Fuzzing harness for the parsers of untrusted bytes: replays a stored corpus, mutates its inputs at random, and
//! continues with each input that led to a new outcome.
//!
//! It runs on the stable compiler, without coverage instrumentation; the feedback is a parser's outcome ([`Outcome`]). A
//! failing input is written into the corpus, with which every later run starts.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hasher as _},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    time::{Duration, Instant},
};

/// Longest input: long enough for some mutations to reach the parsers' own limits.
const MAX_INPUT_BYTES: usize = 256 * 1024;
/// Maximum inputs in the pool.
const MAX_POOL: usize = 2000;
/// Memory limit of the process: a parser that can be made to use more aborts.
const MEMORY_LIMIT: u64 = 3 << 30;

/// Outcome of a parser, without values from the input: equal for inputs that took the same path.
pub type Outcome = String;

/// Limits of one target's run; the first one that is reached ends it.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    pub inputs: u64,
    pub time: Duration,
    pub seed: u64,
}

impl Budget {
    /// The limits of a short, deterministic run, or with `FSA_FUZZ_SECONDS` those of a random one.
    #[must_use]
    #[allow(
        clippy::disallowed_methods,
        reason = "this is a separate program with one setting"
    )]
    pub fn from_env() -> Self {
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
    /// Initial inputs, in addition to the corpus.
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

    /// Checks `property`, which panics on a failure, for the corpus, the seeds and their mutations.
    ///
    /// # Panics
    /// The property fails; the message has the file with the input.
    pub fn check(self, property: impl Fn(&[u8]) -> Outcome) {
        let limit = nix::sys::resource::setrlimit(
            nix::sys::resource::Resource::RLIMIT_AS,
            MEMORY_LIMIT,
            MEMORY_LIMIT,
        );
        limit.expect("a process may limit itself");
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(self.name);
        self.check_in(&folder, Budget::from_env(), property);
    }

    fn check_in(self, folder: &Path, budget: Budget, property: impl Fn(&[u8]) -> Outcome) {
        let (target, dictionary) = (self.name, self.dictionary);
        let run_property = |input: &[u8]| match catch_unwind(AssertUnwindSafe(|| property(input))) {
            Ok(outcome) => hash(&outcome),
            Err(panic) => {
                let path = folder.join(format!("{:016x}", hash(&input)));
                std::fs::create_dir_all(folder).expect("the corpus can be written");
                std::fs::write(&path, input).expect("the corpus can be written");
                eprintln!("{target}: the property fails for {}", path.display());
                std::panic::resume_unwind(panic);
            }
        };
        let mut pool = self.seeds;
        let mut corpus: Vec<_> = std::fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .collect();
        corpus.sort();
        pool.extend(corpus.iter().filter_map(|path| std::fs::read(path).ok()));
        assert!(!pool.is_empty(), "{target} has neither seeds nor a corpus");
        let mut seen: HashSet<u64> = pool.iter().map(|input| run_property(input)).collect();
        let mut random = Random(budget.seed);
        let begun = Instant::now();
        let mut tried = 0;
        while tried < budget.inputs && begun.elapsed() < budget.time {
            tried += 1;
            let input = mutated(&mut random, &pool, &dictionary);
            if seen.insert(run_property(&input)) && pool.len() < MAX_POOL {
                pool.push(input);
            }
        }
        eprintln!(
            "{target}: {tried} inputs, {} outcomes, seed {}",
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
fn mutated(random: &mut Random, pool: &[Vec<u8>], dictionary: &[Vec<u8>]) -> Vec<u8> {
    let mut input = pool[random.below(pool.len())].clone();
    for _ in 0..=random.below(6) {
        mutate(random, &mut input, pool, dictionary);
    }
    input.truncate(MAX_INPUT_BYTES);
    input
}

fn mutate(random: &mut Random, input: &mut Vec<u8>, pool: &[Vec<u8>], dictionary: &[Vec<u8>]) {
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
    fn a_failing_input_is_found_stored_and_replayed_first() {
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
            let run = || target.check_in(folder.path(), budget(inputs), property);
            catch_unwind(AssertUnwindSafe(run))
        };
        assert!(run(200_000).is_err(), "the failure is three mutations away");
        let corpus = std::fs::read_dir(folder.path()).expect("the corpus").count();
        assert_eq!(corpus, 1);
        assert!(run(0).is_err(), "the corpus is replayed first");
    }
}
