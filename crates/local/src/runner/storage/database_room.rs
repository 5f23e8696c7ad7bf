//! Room for the database server of a full volume.
//!
//! A server that cannot write its log (WAL) ends at once, and cannot start again: recovery writes too. If a database
//! has filled its project's quota, nobody could delete anything from it. So a server that cannot start because its
//! volume is full gets a little more than the limit, once: enough to recover, and to drop or truncate tables. It is
//! taken back when the volume has that much room below its limit.

use std::{fs::File, io};

use fsa_model::VolumeId;

use super::{StoragePool, btrfs::BtrfsPool};

/// Bytes above the limit of a project: a few dozen segments of WAL (1 MiB each), and the checkpoint after recovery.
const DATABASE_ROOM: u64 = 64 << 20;
/// With less than this below its limit a volume is full for a server that starts.
const FULL: u64 = 16 << 20;

impl StoragePool {
    /// Gives a volume whose limit is `limit` bytes the room, where it is full and has not got it yet. True if it did.
    ///
    /// # Errors
    /// The file system's.
    pub fn grant_database_room(&self, volume: VolumeId, limit: u64) -> io::Result<bool> {
        match self {
            Self::Copy(_) => Ok(false),
            Self::Btrfs(pool) => pool.change_database_room(volume, limit, granted),
        }
    }

    /// Takes the room back from a volume that does not need it any more.
    ///
    /// # Errors
    /// The file system's.
    pub fn release_database_room(&self, volume: VolumeId, limit: u64) -> io::Result<bool> {
        match self {
            Self::Copy(_) => Ok(false),
            Self::Btrfs(pool) => pool.change_database_room(volume, limit, released),
        }
    }
}

impl BtrfsPool {
    fn change_database_room(
        &self,
        volume: VolumeId,
        limit: u64,
        decide: fn(u64, Option<u64>, u64) -> Option<u64>,
    ) -> io::Result<bool> {
        let folder = File::open(self.volume(volume))?;
        let (used, present) = self.quota(&folder)?;
        match decide(used, present, limit) {
            Some(bytes) => self.set_quota(&folder, bytes).map(|()| true),
            None => Ok(false),
        }
    }
}

/// The limit with room for the server: of a volume that has `used` bytes, the limit `present` and should have `limit`.
fn granted(used: u64, present: Option<u64>, limit: u64) -> Option<u64> {
    let present = present?;
    (used + FULL > present && present < limit + DATABASE_ROOM).then_some(limit + DATABASE_ROOM)
}

/// The limit without it.
fn released(used: u64, present: Option<u64>, limit: u64) -> Option<u64> {
    (present == Some(limit + DATABASE_ROOM) && used + DATABASE_ROOM <= limit).then_some(limit)
}

/// What a change of the limit to `limit` sets: the room stays as long as it is needed.
pub(super) fn kept(used: u64, present: Option<u64>, limit: u64) -> u64 {
    let with_room = limit.saturating_add(DATABASE_ROOM);
    match present == Some(with_room) && released(used, present, limit).is_none() {
        true => with_room,
        false => limit,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const LIMIT: u64 = 2048 * MIB;
    const WITH_ROOM: u64 = LIMIT + DATABASE_ROOM;

    #[test]
    fn a_full_volume_gets_the_room_once_and_keeps_it_until_it_is_not_needed() {
        assert_eq!(granted(LIMIT / 2, Some(LIMIT), LIMIT), None);
        assert_eq!(granted(LIMIT - MIB, Some(LIMIT), LIMIT), Some(WITH_ROOM));
        // Not a second time, however full it is.
        assert_eq!(granted(WITH_ROOM, Some(WITH_ROOM), LIMIT), None);
        // A volume without a limit is never full.
        assert_eq!(granted(LIMIT, None, LIMIT), None);

        assert_eq!(kept(LIMIT, Some(WITH_ROOM), LIMIT), WITH_ROOM);
        assert_eq!(released(LIMIT, Some(WITH_ROOM), LIMIT), None);
        assert_eq!(released(LIMIT / 2, Some(WITH_ROOM), LIMIT), Some(LIMIT));
        assert_eq!(kept(LIMIT / 2, Some(WITH_ROOM), LIMIT), LIMIT);
        // Another size.
        assert_eq!(kept(LIMIT, Some(WITH_ROOM), 5 * LIMIT), 5 * LIMIT);
        assert_eq!(kept(LIMIT, None, LIMIT), LIMIT);
    }
}
