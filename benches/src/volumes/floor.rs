//! Floors of volumes: PostgreSQL and btrfs as they are on this machine.

#![allow(clippy::disallowed_methods, reason = "a floor is another program")]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::report::Sample;

/// PostgreSQL refuses to run as root; this user is `nobody` in Debian.
const NOBODY: u32 = 65534;
/// Size of the file with the file system; it is sparse.
const FILESYSTEM_BYTES: u64 = 4 << 30;

fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().expect("the program runs");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn as_nobody(program: &Path) -> Command {
    let id = NOBODY.to_string();
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", &id, "--regid", &id, "--clear-groups", "--"])
        .arg(program);
    command
}

/// Runs a shell command of an unprivileged user in this folder and returns its output.
pub fn shell(folder: &Path, script: &str) -> String {
    run(as_nobody(Path::new("/bin/sh"))
        .args(["-c", script])
        .env("HOME", folder)
        .current_dir(folder))
}

/// A PostgreSQL server in a folder of the machine.
pub struct Postgres {
    folder: PathBuf,
    programs: PathBuf,
    settings: Vec<String>,
    server: Option<Child>,
}

impl Postgres {
    /// Creates its files. `settings` have the form `name=value`.
    pub fn create(folder: &Path, settings: &[String]) -> Self {
        fs::create_dir(folder).expect("a folder");
        chown(folder, Some(NOBODY), Some(NOBODY)).expect("the folder can be given away");
        let server = Self {
            folder: folder.to_owned(),
            programs: programs(),
            settings: settings.to_vec(),
            server: None,
        };
        run(as_nobody(&server.programs.join("initdb"))
            .args([
                "--username",
                "postgres",
                "--auth",
                "trust",
                "--wal-segsize",
                "1",
                "--pgdata",
            ])
            .arg(server.data())
            .current_dir(folder));
        server
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    pub fn url(&self) -> String {
        format!("postgresql://postgres@/postgres?host={}", self.folder.display())
    }

    /// Starts it, and returns the time until it has answered to `psql`.
    pub fn start(&mut self) -> Duration {
        let begun = Instant::now();
        let mut command = as_nobody(&self.programs.join("postgres"));
        command.arg("-D").arg(self.data()).arg("-k").arg(&self.folder);
        for setting in self
            .settings
            .iter()
            .map(String::as_str)
            .chain(["listen_addresses="])
        {
            command.args(["-c", setting]);
        }
        let mut child = command
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("PostgreSQL starts");
        let mut log = BufReader::new(child.stderr.take().expect("its log"));
        let mut line = String::new();
        while !line.contains("ready to accept connections") {
            line.clear();
            assert!(log.read_line(&mut line).expect("its log") > 0, "PostgreSQL ended");
        }
        // Reads until the server has ended, so that its log never blocks it.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        self.server = Some(child);
        run(Command::new("psql").args(["-qtAc", "select 1", &self.url()]));
        begun.elapsed()
    }

    pub fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let pid = Pid::from_raw(server.id().cast_signed());
            // Fast shutdown, as `pg_ctl stop`.
            kill(pid, Signal::SIGINT).expect("PostgreSQL runs");
            server.wait().expect("PostgreSQL ends");
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Folder of the newest PostgreSQL's programs, as Debian installs them.
fn programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed");
    let newest = versions
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .max()
        .expect("a version");
    PathBuf::from(format!("/usr/lib/postgresql/{newest}/bin"))
}

/// A btrfs file system on a loop device, with one subvolume that has a tree of files.
pub struct Filesystem {
    mount: PathBuf,
}

impl Filesystem {
    pub fn create(folder: &Path, tree: &str) -> Self {
        let file = folder.join("floor.btrfs");
        let mount = folder.join("floor-btrfs");
        fs::create_dir(&mount).expect("a folder");
        fs::File::create(&file)
            .and_then(|created| created.set_len(FILESYSTEM_BYTES))
            .expect("a file");
        run(Command::new("mkfs.btrfs").arg("-q").arg(&file));
        run(Command::new("mount").args(["-o", "loop"]).args([&file, &mount]));
        let filesystem = Self { mount };
        let source = filesystem.mount.join("source");
        run(Command::new("btrfs").args(["subvolume", "create"]).arg(&source));
        fs::set_permissions(&source, fs::Permissions::from_mode(0o777)).expect("permissions");
        shell(&source, tree);
        filesystem
    }

    /// Snapshots of the subvolume.
    pub fn snapshots(&self, times: usize) -> Sample {
        let mut sample = Sample::default();
        for at in 0..times {
            let begun = Instant::now();
            run(Command::new("btrfs")
                .args(["subvolume", "snapshot", "-r"])
                .arg(self.mount.join("source"))
                .arg(self.mount.join(at.to_string())));
            sample.add(begun.elapsed());
        }
        sample
    }
}

impl Drop for Filesystem {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.mount, MntFlags::MNT_DETACH) {
            eprintln!("umount {}: {error}", self.mount.display());
        }
    }
}
