//! Privilege mode of the runner: root on the machine, or root of a plain user's user namespace
//! (rootless). Decided once; all differences between the two are here.

use std::{io, os::fd::OwnedFd};

use sha2::{Digest as _, Sha256};

use super::{
    cgroup::Cgroups,
    layout::Layout,
    mounts::IdMapping,
    unpack::Rules,
    userns::{self, IdRange},
};

/// The two ways to run sandboxes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrivilegeMode {
    /// Each sandbox has its own range of user ids, veth pair and limits.
    Root,
    /// All sandboxes share the one range that the user has. The file systems belong to the
    /// machine, so ids on them cannot be mapped (mount_setattr(2)); nor can interfaces, firewall
    /// rules or control groups be made on the machine's side.
    Rootless,
}

impl PrivilegeMode {
    #[must_use]
    pub fn rules(self) -> Rules {
        match self {
            Self::Root => Rules::ROOT,
            Self::Rootless => Rules::USER_NAMESPACE,
        }
    }

    #[must_use]
    pub fn cgroups(self, layout: &Layout) -> Cgroups {
        match self {
            Self::Root => Cgroups::probe(&layout.cgroup()),
            Self::Rootless => Cgroups::default(),
        }
    }

    /// A new user namespace with these ids, for the sandbox of this name alone.
    ///
    /// # Errors
    /// As [`userns::new`].
    pub fn user_namespace(self, ids: IdRange, name: &str) -> io::Result<OwnedFd> {
        userns::new(self.owner(ids, name), &self.parts(ids))
    }

    /// The user for whom the kernel counts the resources of a sandbox.
    fn owner(self, ids: IdRange, name: &str) -> u32 {
        match self {
            Self::Root => ids.first,
            // Sandboxes share their ids, and the kernel counts all of them for the plain user as
            // well. Their names differ, so two seldom have the same owner.
            Self::Rootless => {
                let hash = Sha256::digest(name);
                1 + u32::from_be_bytes([0, hash[0], hash[1], hash[2]]) % (ids.count - 1)
            }
        }
    }

    /// How the mounts of a sandbox with this user namespace map ids.
    ///
    /// # Errors
    /// The descriptor cannot be copied.
    pub fn view(self, user_namespace: &OwnedFd) -> io::Result<IdMapping> {
        match self {
            Self::Root => user_namespace.try_clone().map(IdMapping::Mapped),
            Self::Rootless => Ok(IdMapping::Unmapped { recursive: true }),
        }
    }

    /// How mounts of the machine's own folders map ids: not at all. The machine's users have no id
    /// in a sandbox, so its root has no more rights to their files than any other user.
    #[must_use]
    pub fn machine_view(self) -> IdMapping {
        IdMapping::Unmapped {
            recursive: self == Self::Rootless,
        }
    }

    /// The ids of a slot, seen from the runner.
    #[must_use]
    pub fn ids(self, base: u32, slot: u32) -> IdRange {
        match self {
            Self::Root => IdRange::of_slot(base, slot),
            Self::Rootless => IdRange {
                first: 0,
                count: userns::COUNT,
            },
        }
    }

    /// The ids of a database server's range, seen from the runner.
    #[must_use]
    pub fn server_ids(self, ids: IdRange) -> IdRange {
        match self {
            Self::Root => ids,
            Self::Rootless => self.ids(0, 1),
        }
    }

    /// The same range in parts, each of which lies within one line of the runner's own map
    /// (user_namespaces(7)).
    #[must_use]
    pub fn parts(self, ids: IdRange) -> Vec<IdRange> {
        match self {
            Self::Root => vec![ids],
            Self::Rootless => vec![
                IdRange { first: 0, count: 1 },
                IdRange {
                    first: 1,
                    count: ids.count - 1,
                },
            ],
        }
    }

    /// Mount options for overlay attributes: only the names `user.overlay.*` may be set in a user
    /// namespace, and with them no redirect is followed (kernel documentation, "overlayfs").
    #[must_use]
    pub fn overlay_options(self) -> &'static str {
        match self {
            Self::Root => "redirect_dir=off",
            Self::Rootless => "redirect_dir=nofollow,userxattr",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_range_are_the_whole_range() {
        for privilege_mode in [PrivilegeMode::Root, PrivilegeMode::Rootless] {
            let ids = privilege_mode.ids(1_000_000, 3);
            let mut next = ids.first;
            for part in privilege_mode.parts(ids) {
                assert_eq!(part.first, next);
                next += part.count;
            }
            assert_eq!(next, ids.first + ids.count);
        }
    }

    #[test]
    fn sandboxes_of_one_machine_have_owners_of_their_own() {
        for privilege_mode in [PrivilegeMode::Root, PrivilegeMode::Rootless] {
            let owner = |slot, name| {
                let ids = privilege_mode.ids(1_000_000, slot);
                let owner = privilege_mode.owner(ids, name);
                assert!(owner > 0 && (ids.first..ids.first + ids.count).contains(&owner));
                owner
            };
            assert_ne!(owner(1, "shop-a1b2c3"), owner(2, "blog-d4e5f6"));
        }
    }
}
