//! Leftover check: processes, mounts and files of a data folder that still exist on the machine.

use std::path::Path;

/// Leftovers of sandboxes, while the server may still run.
#[must_use]
pub fn sandboxes(data: &Path) -> Vec<String> {
    let mut left = Vec::new();
    for folder in ["sandboxes", "volumes", "slots"] {
        left.extend(entries(&data.join("runner").join(folder)));
    }
    left.extend(entries(&data.join("run/s")));
    left.extend(
        processes(data)
            .into_iter()
            .filter(|line| line.contains("fsa-sandboxd") || line.contains("/.fsa/")),
    );
    left
}

/// All leftovers, after the server and the clusters have ended.
#[must_use]
pub fn all(data: &Path) -> Vec<String> {
    let mut left = sandboxes(data);
    left.extend(processes(data));
    left.extend(mounts(data));
    left.extend(loop_devices(data));
    left
}

/// Loop devices that files of the data folder are attached to.
#[must_use]
pub fn loop_devices(data: &Path) -> Vec<String> {
    std::fs::read_dir("/sys/block")
        .map(|devices| {
            devices
                .filter_map(|device| {
                    std::fs::read_to_string(device.ok()?.path().join("loop/backing_file")).ok()
                })
                .filter(|file| Path::new(file.trim()).starts_with(data))
                .map(|file| format!("loop device: {}", file.trim()))
                .collect()
        })
        .unwrap_or_default()
}

fn entries(folder: &Path) -> Vec<String> {
    std::fs::read_dir(folder)
        .map(|entries| {
            entries
                .filter_map(|entry| Some(entry.ok()?.path().display().to_string()))
                .collect()
        })
        .unwrap_or_default()
}

/// Processes whose command line or working folder is in the data folder.
fn processes(data: &Path) -> Vec<String> {
    let name = data.display().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let path = entry.path();
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        if pid == std::process::id() {
            continue;
        }
        let line = std::fs::read(path.join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let folder = std::fs::read_link(path.join("cwd"))
            .map(|link| link.display().to_string())
            .unwrap_or_default();
        if line.contains(&name) || folder.starts_with(&name) {
            found.push(format!("process {pid}: {line}"));
        }
    }
    found
}

fn mounts(data: &Path) -> Vec<String> {
    let name = data.display().to_string();
    std::fs::read_to_string("/proc/self/mountinfo")
        .unwrap_or_default()
        .lines()
        .filter(|line| line.contains(&name))
        .map(|line| format!("mount: {line}"))
        .collect()
}
