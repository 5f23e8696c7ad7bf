//! Resource usage of the sandbox: from its cgroups, or from `/proc` where they are not visible.

use std::{
    fs,
    path::{Path, PathBuf},
};

use fsa_model::sandboxd::Usage;

use crate::session;

/// Mount point of cgroups.
const ROOT: &str = "/sys/fs/cgroup";

/// Current usage. Disk usage is not measured here: that would mean to read every folder.
#[must_use]
pub fn now() -> Usage {
    let membership = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    cgroup2(&membership)
        .or_else(|| cgroup1(&membership))
        .unwrap_or_else(processes)
}

/// The folder of the cgroup, or the mount itself if a namespace hides the path.
fn folder(mount: &Path, path: &str, needed: &str) -> Option<PathBuf> {
    [mount.join(path.trim_start_matches('/')), mount.to_owned()]
        .into_iter()
        .find(|folder| folder.join(needed).is_file())
}

/// Cgroups version 2: one folder for all controllers. A machine's root cgroup has no `memory.current`,
/// so it is never mistaken for the sandbox's.
fn cgroup2(membership: &str) -> Option<Usage> {
    let path = membership.lines().find_map(|line| line.strip_prefix("0::"))?;
    let folder = folder(Path::new(ROOT), path, "memory.current")?;
    let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    Some(Usage {
        cpu_microseconds: field(
            &fs::read_to_string(folder.join("cpu.stat")).unwrap_or_default(),
            "usage_usec",
        ),
        memory_bytes: number(&folder.join("memory.current")).saturating_sub(field(&stat, "inactive_file")),
        memory_limit_bytes: limit(number(&folder.join("memory.max"))),
        pids: number(&folder.join("pids.current")),
        disk_bytes: 0,
        disk_limit_bytes: 0,
    })
}

/// Cgroups version 1: a mount for each controller.
fn cgroup1(membership: &str) -> Option<Usage> {
    let of = |controller: &str, needed: &str| {
        let path = membership.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let names = fields.next()?;
            names
                .split(',')
                .any(|name| name == controller)
                .then_some(fields.next())
                .flatten()
        })?;
        folder(&Path::new(ROOT).join(controller), path, needed)
    };
    let memory = of("memory", "memory.usage_in_bytes")?;
    let stat = fs::read_to_string(memory.join("memory.stat")).unwrap_or_default();
    let read =
        |controller: &str, file: &str| of(controller, file).map_or(0, |folder| number(&folder.join(file)));
    Some(Usage {
        cpu_microseconds: read("cpuacct", "cpuacct.usage") / 1000,
        memory_bytes: number(&memory.join("memory.usage_in_bytes"))
            .saturating_sub(field(&stat, "total_inactive_file")),
        memory_limit_bytes: limit(number(&memory.join("memory.limit_in_bytes"))),
        pids: read("pids", "pids.current"),
        disk_bytes: 0,
        disk_limit_bytes: 0,
    })
}

/// The sum over all visible processes. Shared memory counts for each process that shares it.
fn processes() -> Usage {
    let ticks_per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)
        .ok()
        .flatten()
        .unwrap_or(100);
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .unwrap_or(4096);
    let mut usage = Usage::default();
    for process in session::all() {
        let folder = PathBuf::from(format!("/proc/{}", process.pid));
        let stat = fs::read_to_string(folder.join("stat")).unwrap_or_default();
        // utime and stime, and those of ended children, are fields 14 to 17 (proc(5)), the twelfth
        // and following after the name. So ended processes still count.
        let after_name = stat.rsplit(") ").next().unwrap_or_default();
        let ticks: u64 = after_name
            .split(' ')
            .skip(11)
            .take(4)
            .filter_map(|ticks| ticks.parse::<u64>().ok())
            .sum();
        usage.cpu_microseconds += ticks * 1_000_000 / ticks_per_second.unsigned_abs().max(1);
        let pages = fs::read_to_string(folder.join("statm"))
            .ok()
            .and_then(|statm| statm.split(' ').nth(1)?.parse::<u64>().ok());
        usage.memory_bytes += pages.unwrap_or(0) * page.unsigned_abs();
        usage.pids += 1;
    }
    usage
}

/// The number in a file; 0 for `max` and for an unreadable file.
fn number(path: &Path) -> u64 {
    fs::read_to_string(path)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

/// The value of a line `name value`.
fn field(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
        .unwrap_or(0)
}

/// Version 1 has a number near 2⁶³ for "no limit".
const fn limit(bytes: u64) -> u64 {
    if bytes >= 1 << 60 { 0 } else { bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_and_proc_both_report_usage() {
        for usage in [now(), processes()] {
            assert!(usage.memory_bytes > 0, "{usage:?}");
        }
        assert!(processes().pids > 0);
    }

    #[test]
    fn fields_are_matched_by_their_whole_name() {
        let text = "total_inactive_file 7\ninactive_file 5\n";
        assert_eq!(field(text, "inactive_file"), 5);
        assert_eq!(field(text, "file"), 0);
        assert_eq!(limit(9_223_372_036_854_771_712), 0);
    }
}
