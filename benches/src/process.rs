//! Resource usage of processes, from /proc.

use std::{path::Path, time::Duration};

/// The server's processes: `fsa serve` and everything below it (runner and its helpers).
#[must_use]
pub fn family(root: i32) -> Vec<i32> {
    let mut family = vec![root];
    let mut at = 0;
    while at < family.len() {
        let children =
            std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", family[at])).unwrap_or_default();
        family.extend(
            children
                .split_whitespace()
                .filter_map(|pid| pid.parse::<i32>().ok()),
        );
        at += 1;
    }
    family
}

/// Resident memory in MB (10^6 bytes), the shared pages of a program counted once per process.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "less than 2^53 bytes")]
pub fn resident(pid: i32) -> f64 {
    fsa_tests::world::resident(pid) as f64 / 1e6
}

/// Processor time so far (user and system), from fields 14 and 15 of proc_pid_stat(5).
#[must_use]
pub fn processor_time(pid: i32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<&str> = after.split_whitespace().collect();
    let ticks: u64 = [11, 12]
        .iter()
        .filter_map(|&at| fields.get(at)?.parse::<u64>().ok())
        .sum();
    // USER_HZ is 100 on every Linux architecture that matters.
    Duration::from_millis(ticks * 10)
}

/// Memory of the machine that is in use by anything but the page cache, in MB.
#[must_use]
pub fn machine_memory() -> f64 {
    let _ = std::fs::write("/proc/sys/vm/drop_caches", "3");
    let text = std::fs::read_to_string(Path::new("/proc/meminfo")).unwrap_or_default();
    let field = |name: &str| {
        text.lines()
            .find_map(|line| {
                line.strip_prefix(name)?
                    .trim()
                    .trim_end_matches(" kB")
                    .trim()
                    .parse::<f64>()
                    .ok()
            })
            .unwrap_or_default()
    };
    let cached = field("Cached:") - field("Shmem:");
    (field("MemTotal:") - field("MemFree:") - field("Buffers:") - cached) * 1024.0 / 1e6
}
