//! Lease keeping: renews the lease of a claimed row until it is lost.
//!
//! Sandboxes, project removals and agent runs are claimed alike: a row has the id of its lease and a time until which
//! it holds, and every write names the lease. A lease holder drops its work when [`keep`] returns.

use std::time::Duration;

use tokio::time::Instant;

/// Delay before a retry when the database does not answer.
pub const STORE_RETRY: Duration = Duration::from_millis(500);

/// The result of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// The lease is renewed.
    Renewed,
    /// The lease is absent because its holder releases it at this moment.
    Releasing,
    /// Another process has the lease, or the row is gone.
    Lost,
}

/// Renews a lease of this duration with `renew`. Returns when the lease is lost, or may be lost because the database
/// has not answered for too long.
pub async fn keep<F, E>(duration: Duration, mut renew: impl FnMut() -> F)
where
    F: Future<Output = Result<Renewal, E>>,
    E: std::fmt::Display,
{
    // Measured by this process's clock from before the request was sent: always earlier than the end by the database's
    // clock. A sixth is left for work that cannot be dropped at once.
    let margin = duration / 6;
    let mut ends = Instant::now() + duration - margin;
    let mut next = Instant::now() + duration / 3;
    loop {
        tokio::time::sleep_until(next.min(ends)).await;
        let sent_at = Instant::now();
        if sent_at >= ends {
            return;
        }
        match tokio::time::timeout_at(ends, renew()).await {
            Ok(Ok(Renewal::Renewed)) => {
                ends = sent_at + duration - margin;
                next = sent_at + duration / 3;
            }
            Ok(Ok(Renewal::Releasing)) => next = sent_at + duration / 3,
            Ok(Ok(Renewal::Lost)) | Err(_) => return,
            Ok(Err(error)) => {
                tracing::warn!(%error, "a lease could not be renewed");
                next = sent_at + STORE_RETRY;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    const LEASE: Duration = Duration::from_millis(60);
    /// The duration of the lease without the margin.
    const LEASE_WITHOUT_MARGIN: Duration = Duration::from_millis(50);
    /// Real time, with 3 s between a renewal and the end: a machine that stops for a moment loses no lease.
    const LONG_LEASE: Duration = Duration::from_secs(6);

    #[tokio::test]
    async fn a_lease_is_renewed_until_it_is_lost() {
        let mut renewals = 0;
        keep(LONG_LEASE, || {
            renewals += 1;
            let renewal = if renewals < 5 {
                Renewal::Renewed
            } else {
                Renewal::Lost
            };
            async move { Ok::<_, Infallible>(renewal) }
        })
        .await;
        assert_eq!(renewals, 5);
    }

    #[tokio::test]
    async fn a_lease_ends_when_the_database_does_not_answer() {
        let began = Instant::now();
        keep(LEASE, std::future::pending::<Result<Renewal, Infallible>>).await;
        assert!(began.elapsed() >= LEASE_WITHOUT_MARGIN);

        let began = Instant::now();
        keep(LEASE, || async { Err("no database") }).await;
        assert!(began.elapsed() >= LEASE_WITHOUT_MARGIN);
    }

    #[tokio::test]
    async fn a_lease_under_release_is_neither_lost_nor_extended() {
        let began = Instant::now();
        keep(LEASE, || async { Ok::<_, Infallible>(Renewal::Releasing) }).await;
        assert!(began.elapsed() >= LEASE_WITHOUT_MARGIN);
    }
}
