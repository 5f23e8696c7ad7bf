//! Control groups (version 1, 2, or both side by side): the limits that they can enforce, a
//! sandbox's usage, and their removal.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use super::mounts;

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hierarchy {
    mount: PathBuf,
    unified: bool,
    /// Version 1 only; version 2 lists them in a file.
    controllers: Vec<String>,
}

/// The machine's control groups.
#[derive(Clone, Debug, Default)]
pub struct Cgroups {
    hierarchies: Vec<Hierarchy>,
    /// The parent group of all sandboxes in each hierarchy, relative.
    parent: String,
    pub memory: bool,
    pub swap: bool,
    pub cpu: bool,
    pub pids: bool,
}

/// Resource usage of a sandbox's processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CgroupUsage {
    pub cpu_microseconds: u64,
    pub memory_bytes: u64,
    pub memory_limit_bytes: u64,
    pub pids: u64,
}

impl Cgroups {
    /// Finds the hierarchies, makes the parent group in each, and checks what can be enforced.
    #[must_use]
    pub fn probe(parent: &str) -> Self {
        let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
        let mut found = Self {
            hierarchies: hierarchies(&table),
            parent: parent.to_owned(),
            ..Self::default()
        };
        for hierarchy in &found.hierarchies {
            let group = hierarchy.mount.join(parent);
            if hierarchy.unified {
                for controller in ["memory", "cpu", "pids"] {
                    // Fails where the controller belongs to version 1, or is not delegated.
                    let _ = fs::write(
                        hierarchy.mount.join("cgroup.subtree_control"),
                        format!("+{controller}"),
                    );
                }
            }
            if let Err(error) = fs::create_dir(&group)
                && error.kind() != io::ErrorKind::AlreadyExists
            {
                tracing::debug!(path = %group.display(), %error, "no control group can be made here");
                continue;
            }
            let has = |file: &str| group.join(file).exists();
            found.memory |= has("memory.max") || has("memory.limit_in_bytes");
            found.swap |= has("memory.swap.max") || has("memory.memsw.limit_in_bytes");
            found.cpu |= has("cpu.max") || has("cpu.cfs_quota_us");
            found.pids |= has("pids.max");
        }
        found
    }

    /// Whether any limit can be enforced.
    #[must_use]
    pub fn any(&self) -> bool {
        self.memory || self.cpu || self.pids
    }

    /// The group of a sandbox in the OCI runtime's form (`linux.cgroupsPath`).
    #[must_use]
    pub fn path(&self, name: &str) -> String {
        format!("/{}/{name}", self.parent)
    }

    fn groups(&self, name: &str) -> impl Iterator<Item = (&Hierarchy, PathBuf)> {
        self.hierarchies
            .iter()
            .map(move |hierarchy| (hierarchy, hierarchy.mount.join(&self.parent).join(name)))
    }

    /// The folders of a sandbox's groups, one in each hierarchy; they need not exist.
    pub(super) fn folders(&self, name: &str) -> impl Iterator<Item = PathBuf> {
        self.groups(name).map(|(_, folder)| folder)
    }

    /// The processes in a sandbox's groups.
    #[must_use]
    pub fn processes(&self, name: &str) -> Vec<i32> {
        let mut all: Vec<i32> = self
            .groups(name)
            .filter_map(|(_, group)| fs::read_to_string(group.join("cgroup.procs")).ok())
            .flat_map(|text| {
                text.lines()
                    .filter_map(|line| line.parse().ok())
                    .collect::<Vec<_>>()
            })
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Resource usage of the sandbox, as far as the hierarchies count it.
    #[must_use]
    pub fn usage(&self, name: &str) -> CgroupUsage {
        let mut found = CgroupUsage::default();
        for (hierarchy, group) in self.groups(name) {
            let number = |file: &str| -> Option<u64> {
                fs::read_to_string(group.join(file)).ok()?.trim().parse().ok()
            };
            let field = |file: &str, name: &str| {
                fs::read_to_string(group.join(file))
                    .ok()
                    .and_then(|text| field(&text, name))
            };
            let (current, limit, inactive, pids) = if hierarchy.unified {
                ("memory.current", "memory.max", "inactive_file", "pids.current")
            } else {
                (
                    "memory.usage_in_bytes",
                    "memory.limit_in_bytes",
                    "total_inactive_file",
                    "pids.current",
                )
            };
            if let Some(bytes) = number(current) {
                // Page cache that the kernel can drop is not counted, as in `docker stats`.
                found.memory_bytes = bytes.saturating_sub(field("memory.stat", inactive).unwrap_or(0));
                // Version 1 writes "unlimited" as a number near 2^63.
                found.memory_limit_bytes = number(limit).filter(|bytes| *bytes < 1 << 60).unwrap_or(0);
            }
            if let Some(processes) = number(pids) {
                found.pids = processes;
            }
            if let Some(nanoseconds) = number("cpuacct.usage") {
                found.cpu_microseconds = nanoseconds / 1000;
            } else if hierarchy.unified
                && let Some(microseconds) = field("cpu.stat", "usage_usec")
                && microseconds > 0
            {
                found.cpu_microseconds = microseconds;
            }
        }
        found
    }

    /// How many processes of the sandbox the kernel ended because of its memory limit.
    #[must_use]
    pub fn out_of_memory(&self, name: &str) -> u64 {
        self.groups(name)
            .flat_map(|(_, group)| {
                ["memory.events", "memory.oom_control"].map(|file| {
                    fs::read_to_string(group.join(file))
                        .ok()
                        .and_then(|text| field(&text, "oom_kill"))
                        .unwrap_or(0)
                })
            })
            .max()
            .unwrap_or(0)
    }

    /// Removes the sandbox's groups, whose processes have ended.
    pub fn remove(&self, name: &str) {
        for (_, group) in self.groups(name) {
            remove(&group);
        }
    }

    /// Removes the parent group, where it is empty.
    pub fn remove_parent(&self) {
        for hierarchy in &self.hierarchies {
            let _ = fs::remove_dir(hierarchy.mount.join(&self.parent));
        }
    }

    /// The existing groups, for a list of leftovers.
    #[must_use]
    pub fn left(&self) -> Vec<PathBuf> {
        self.hierarchies
            .iter()
            .filter_map(|hierarchy| fs::read_dir(hierarchy.mount.join(&self.parent)).ok())
            .flat_map(|entries| {
                entries
                    .flatten()
                    .map(|entry| entry.path())
                    .filter(|path| path.is_dir())
                    .collect::<Vec<_>>()
            })
            .collect()
    }
}

fn remove(group: &Path) {
    if let Ok(entries) = fs::read_dir(group) {
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove(&entry.path());
            }
        }
    }
    // A process that has ended may keep its group busy until its parent has reaped it; there is
    // no event to wait for, so this retries, for a fifth of a second at most.
    for attempt in 0..6 {
        match fs::remove_dir(group) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                #[allow(clippy::disallowed_methods, reason = "there is no event to wait for")]
                thread::sleep(Duration::from_millis(3 << attempt));
            }
            _ => return,
        }
    }
    tracing::warn!(path = %group.display(), "a control group is still in use");
}

/// The value in a line `name value`.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// proc(5), mountinfo: the type and the super block's options follow a lone dash.
fn hierarchies(table: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in table.lines() {
        let Some((_, rest)) = line.split_once(" - ") else {
            continue;
        };
        let mut rest = rest.split(' ');
        let kind = rest.next().unwrap_or("");
        let controllers: Vec<String> = rest
            .nth(1)
            .unwrap_or("")
            .split(',')
            .filter(|option| !matches!(*option, "rw" | "ro"))
            .map(str::to_owned)
            .collect();
        let unified = kind == "cgroup2";
        if !unified && kind != "cgroup" {
            continue;
        }
        let Some(mount) = mounts::below(line, Path::new("/"))
            .into_iter()
            .next()
            .map(PathBuf::from)
        else {
            continue;
        };
        let seen = |other: &Hierarchy| {
            other.mount == mount || (other.unified == unified && other.controllers == controllers)
        };
        if !found.iter().any(seen) {
            found.push(Hierarchy {
                mount,
                unified,
                controllers,
            });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_found_once_each() {
        let table = "1 0 0:1 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                     2 0 0:2 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                     3 0 0:1 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                     4 0 0:3 / / rw - ext4 /dev/vda rw\n";
        let mounts: Vec<_> = hierarchies(table)
            .into_iter()
            .map(|h| (h.mount, h.unified))
            .collect();
        assert_eq!(
            mounts,
            [
                ("/sys/fs/cgroup/memory".into(), false),
                ("/sys/fs/cgroup/unified".into(), true)
            ]
        );
    }

    #[test]
    fn a_field_is_not_confused_with_one_whose_name_is_longer() {
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!(field(text, "oom_kill"), Some(3));
    }
}
