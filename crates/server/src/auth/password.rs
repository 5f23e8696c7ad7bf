//! Password hashing with Argon2id, on blocking threads, a few at a time.

use std::sync::LazyLock;

use argon2::{
    Argon2,
    password_hash::{PasswordHasher as _, PasswordVerifier as _, phc::PasswordHash},
};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::Semaphore;

use crate::error::{Error, Result};

/// Hashes in flight. Each takes 19 MiB of memory and some 20 ms of a processor.
static HASH_SLOTS: Semaphore = Semaphore::const_new(2);
/// Hashes in flight and waiting.
static HASH_QUEUE: Semaphore = Semaphore::const_new(32);
/// The part of the queue for unknown clients, so that they cannot lock all users out.
static UNKNOWN_QUEUE: Semaphore = Semaphore::const_new(24);

/// The client that needs a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// A user who is signed in, or a browser in which the user signed in before.
    Known,
    Unknown,
}

/// A hash that no password has, so that refusing an unknown user takes as long as refusing an existing one.
static DUMMY_HASH: LazyLock<String> = LazyLock::new(|| {
    hash_blocking(super::secret::random().expose_secret()).expect("the default parameters are valid")
});

/// Refuses a password that is too weak or too long.
///
/// # Errors
/// 422 with the rule.
pub fn check(password: &SecretString) -> Result<()> {
    let length = password.expose_secret().chars().count();
    if (10..=200).contains(&length) {
        Ok(())
    } else {
        Err(Error::invalid("password", "a password has 10 to 200 characters"))
    }
}

/// Hashes a password.
///
/// # Errors
/// 503 where too many are being hashed.
pub async fn hash(password: SecretString, priority: Priority) -> Result<String> {
    on_blocking_thread(priority, move || hash_blocking(password.expose_secret())).await?
}

/// Whether `password` matches the hash. `None` means a user that does not exist or has no password, and takes as
/// long.
///
/// # Errors
/// 503 where too many are being hashed.
pub async fn verify(password: SecretString, hashed: Option<String>, priority: Priority) -> Result<bool> {
    on_blocking_thread(priority, move || {
        let exists = hashed.is_some();
        let hashed = hashed.unwrap_or_else(|| DUMMY_HASH.clone());
        let matches = PasswordHash::new(&hashed).is_ok_and(|hashed| {
            Argon2::default()
                .verify_password(password.expose_secret().as_bytes(), &hashed)
                .is_ok()
        });
        matches && exists
    })
    .await
}

fn hash_blocking(password: &str) -> Result<String> {
    let hashed = Argon2::default()
        .hash_password(password.as_bytes())
        .map_err(|e| Error::internal("The password could not be hashed.").with_cause(e))?;
    Ok(hashed.to_string())
}

async fn on_blocking_thread<T: Send + 'static>(
    priority: Priority,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let busy = || Error::unavailable("Too many people sign in at this moment; try again.");
    let unknown = match priority {
        Priority::Known => None,
        Priority::Unknown => Some(UNKNOWN_QUEUE.try_acquire().map_err(|_| busy())?),
    };
    let queued = HASH_QUEUE.try_acquire().map_err(|_| busy())?;
    let slot = HASH_SLOTS.acquire().await.map_err(|_| busy())?;
    // The thread continues after the request is dropped, so it holds the permits itself.
    tokio::task::spawn_blocking(move || {
        let _held = (unknown, queued, slot);
        work()
    })
    .await
    .map_err(|e| Error::internal("The password could not be checked.").with_cause(e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_correct_password_is_accepted() {
        let verify = |password: &str, hashed| verify(password.to_owned().into(), hashed, Priority::Known);
        let hashed = hash("correct horse".to_owned().into(), Priority::Known)
            .await
            .unwrap();
        assert!(hashed.starts_with("$argon2id$"));
        assert!(verify("correct horse", Some(hashed.clone())).await.unwrap());
        assert!(!verify("wrong horse", Some(hashed)).await.unwrap());
        assert!(!verify("correct horse", None).await.unwrap());
    }

    #[tokio::test]
    async fn unknown_clients_do_not_block_known_users() {
        // The test's process has no other hashes in flight; so these permits are those of unknown clients.
        let _all = UNKNOWN_QUEUE.acquire_many(24).await.unwrap();
        let _and_waiting = HASH_QUEUE.acquire_many(24).await.unwrap();
        let unknown = verify("x".to_owned().into(), None, Priority::Unknown).await;
        assert_eq!(unknown.unwrap_err().status(), 503);
        assert!(
            !verify("x".to_owned().into(), None, Priority::Known)
                .await
                .unwrap()
        );
    }
}
