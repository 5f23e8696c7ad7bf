//! Floors: the time that the machine itself takes for the same work.

use std::{
    io::Read as _,
    process::{Command, Stdio},
    time::Instant,
};

use crate::report::Sample;

/// One line about the machine.
#[must_use]
pub fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let date = output("date", &["-u", "+%F"]);
    format!("{date}, {cores} processors, Linux {}.", kernel.trim())
}

#[allow(clippy::disallowed_methods, reason = "a floor is another program")]
fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output();
    output
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        .unwrap_or_default()
}

/// `runc run` of a program that ends at once, with the namespaces of a sandbox, `times` times.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "a floor is another program")]
pub fn runtime(times: usize) -> Sample {
    let folder = tempfile_folder();
    let bundle = folder.join("bundle");
    // The container's root is an unprivileged user here, and could not create the mount points.
    for point in ["usr", "lib64", "lib", "proc", "dev"] {
        std::fs::create_dir_all(bundle.join("rootfs").join(point)).expect("a bundle");
    }
    let spec = serde_json::json!({
        "ociVersion": "1.0.2",
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["/usr/bin/true"], "cwd": "/", "noNewPrivileges": true},
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]},
            {"destination": "/lib64", "type": "bind", "source": "/usr/lib64", "options": ["rbind", "ro"]},
            {"destination": "/lib", "type": "bind", "source": "/usr/lib", "options": ["rbind", "ro"]},
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]}
        ],
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network"}, {"type": "user"}],
            "uidMappings": [{"containerID": 0, "hostID": 2_000_000_000_u32, "size": 65536}],
            "gidMappings": [{"containerID": 0, "hostID": 2_000_000_000_u32, "size": 65536}],
            "resources": {"memory": {"limit": 2_147_483_648_u64}, "pids": {"limit": 512}},
            "cgroupsPath": "/fsa-floor/one"
        }
    });
    std::fs::write(bundle.join("config.json"), spec.to_string()).expect("config.json");
    let mut run = Sample::default();
    for at in 0..times {
        let begun = Instant::now();
        let status = Command::new("runc")
            .args(["--root"])
            .arg(folder.join("state"))
            .args(["run", "--bundle"])
            .arg(&bundle)
            .arg(format!("floor-{}-{at}", std::process::id()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .output()
            .expect("runc runs");
        run.add(begun.elapsed());
        assert!(
            status.status.success(),
            "runc run: {}",
            String::from_utf8_lossy(&status.stderr)
        );
    }
    let _ = std::fs::remove_dir_all(&folder);
    run
}

fn tempfile_folder() -> std::path::PathBuf {
    let folder = std::env::temp_dir().join(format!("fsa-floor-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

/// MB/s of `command` writing to a local pseudo-terminal that a plain loop reads in pieces of
/// 64 KiB.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "a floor is another program")]
pub fn pty_output(command: &[&str], bytes: usize) -> f64 {
    let pty = nix::pty::openpty(None, None).expect("a pty");
    // A child that kept this end open would never see that the reader is gone.
    let own = nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC);
    nix::fcntl::fcntl(&pty.master, own).expect("a pty");
    let end = || Stdio::from(pty.slave.try_clone().expect("the other side"));
    let begun = Instant::now();
    let mut child = Command::new(command[0])
        .args(&command[1..])
        .stdin(Stdio::null())
        .stdout(end())
        .stderr(end())
        .spawn()
        .expect("it runs");
    drop(pty.slave);
    let mut master = std::fs::File::from(pty.master);
    let mut buffer = vec![0; 64 * 1024];
    let mut seen = 0;
    while seen < bytes {
        match master.read(&mut buffer) {
            Ok(length @ 1..) => seen += length,
            _ => break,
        }
    }
    let took = begun.elapsed();
    drop(master);
    let _ = child.wait();
    seen as f64 / 1e6 / took.as_secs_f64()
}
