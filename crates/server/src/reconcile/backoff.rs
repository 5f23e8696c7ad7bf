//! Backoff and verification intervals: when to retry, and when to verify again. Pure except for random jitter.

use std::time::Duration;

use rand::RngExt as _;

/// The longest backoff.
pub const MAX: Duration = Duration::from_secs(300);
/// How often a sandbox in its desired state is verified.
pub const VERIFY_INTERVAL: Duration = Duration::from_secs(300);
/// A container that has run this long counts as healthy again.
pub const HEALTHY_AFTER: Duration = Duration::from_secs(60);

/// The backoff after the `attempts`th failure in a row: 1 s, 2 s, 4 s … at most [`MAX`],
/// each 20% shorter or longer, so that sandboxes that failed together are not retried together.
#[must_use]
pub fn delay(attempts: i32) -> Duration {
    let doublings = u32::try_from(attempts.saturating_sub(1)).unwrap_or(0).min(9);
    jittered(Duration::from_secs(1 << doublings)).min(MAX)
}

/// The interval until a sandbox in its desired state is verified again.
#[must_use]
pub fn verify_interval() -> Duration {
    jittered(VERIFY_INTERVAL)
}

fn jittered(duration: Duration) -> Duration {
    duration.mul_f64(rand::rng().random_range(0.8..=1.2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backoff_doubles_up_to_five_minutes() {
        for (attempts, seconds) in [(0, 1), (1, 1), (2, 2), (3, 4), (9, 256)] {
            let nominal = Duration::from_secs(seconds);
            let real = delay(attempts);
            assert!(
                real >= nominal.mul_f64(0.79) && real <= nominal.mul_f64(1.21),
                "{attempts}: {real:?}"
            );
        }
        for attempts in [10, 100, i32::MAX] {
            assert!(delay(attempts) <= MAX && delay(attempts) >= MAX.mul_f64(0.8));
        }
    }
}
