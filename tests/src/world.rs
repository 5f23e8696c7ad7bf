//! World: the fixture of the end-to-end tests. One installation of FullStack Agent in a separate data folder,
//! started, killed, restarted, and removed without leftovers.

use std::{
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        mpsc::{self, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use nix::{
    sys::{
        signal::{Signal, kill},
        stat::{Mode, SFlag, makedev, mknod},
    },
    unistd::{Pid, User, chown},
};

use crate::{api::Api, exported, leftovers, reserved_port::ReservedPort};

/// Timeout of a server's start; the first start creates the control cluster.
const START: Duration = Duration::from_secs(240);

/// Name of the device that pasta needs, in the world of a plain user.
const TUN: &str = "tun";
/// Becomes a plain user on a machine where all users may open /dev/net/tun, like with udev; without
/// udev only root may. The mount is visible to this program only.
const AS_PLAIN_USER: &str = r#"mount --bind "$1" /dev/net/tun
exec setpriv --reuid "$2" --regid "$3" --clear-groups "$4" "${@:5}""#;

/// One data folder and, most of the time, a server on it.
pub struct World {
    /// Dropped before the folder that it is in.
    disk: Option<Disk>,
    folder: tempfile::TempDir,
    options: Vec<String>,
    pub server: Option<Server>,
    /// The address of every start.
    pub address: String,
    /// Keeps the address while no server runs.
    _port: ReservedPort,
    /// The owner's token.
    pub token: String,
    /// The user of the server, if it differs from the user of the tests.
    user: Option<User>,
}

/// Running `fsa serve`.
pub struct Server {
    child: Child,
    /// Its standard error so far.
    pub log: Arc<Mutex<String>>,
    /// Its standard output until it was ready.
    pub printed: Vec<String>,
}

/// File system mounted at this path.
struct Disk(PathBuf);

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH) {
            eprintln!("umount {}: {error}", self.0.display());
        }
    }
}

impl World {
    /// Creates a world and starts its server.
    #[must_use]
    pub fn start(options: &[&str]) -> Self {
        Self::unserved(None, options).started()
    }

    /// Creates a world whose server runs as a plain user.
    #[must_use]
    pub fn start_as_plain_user(user: User, options: &[&str]) -> Self {
        Self::unserved(Some(user), options).started()
    }

    /// Creates a world on a separate disk of this `size` (in the form of tmpfs(5)).
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "mount(8) is the system's own way")]
    pub fn start_on_a_disk_of(size: &str) -> Self {
        let mut world = Self::unserved(None, &[]);
        let data = world.data();
        std::fs::create_dir(&data).expect("a folder");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(&data)
            .status();
        assert!(mounted.is_ok_and(|status| status.success()), "mount");
        world.disk = Some(Disk(data));
        world.started()
    }

    /// Starts the server of a prepared world.
    #[must_use]
    pub fn started(mut self) -> Self {
        let world = &mut self;
        world.serve_with(&["--print-token"]);
        let server = world.server.as_ref().expect("a server");
        world.token = server
            .printed
            .iter()
            .find(|line| line.starts_with("fsa_"))
            .expect("the server prints a token on a separate line")
            .clone();
        self
    }

    /// Creates a world whose operator has these variables (a `.env` file) for coding agents.
    #[must_use]
    pub fn start_with_agents(options: &[&str], variables: &str) -> Self {
        let world = Self::unserved(None, options);
        let secret = world.folder().join("secret");
        std::fs::create_dir(&secret).expect("a folder");
        std::fs::write(secret.join(".env"), variables).expect("the variables can be written");
        world.started()
    }

    /// Creates a world without a server.
    #[must_use]
    pub fn unserved(user: Option<User>, options: &[&str]) -> Self {
        crate::init();
        let folder = tempfile::Builder::new()
            .prefix("fsa-")
            .tempdir_in("/tmp")
            .expect("a folder for the world");
        // The system user that the server becomes must be able to enter the folder.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).expect("permissions");
        let port = ReservedPort::new();
        let world = Self {
            disk: None,
            folder,
            options: options.iter().map(|text| (*text).to_owned()).collect(),
            server: None,
            address: format!("127.0.0.1:{}", port.number),
            _port: port,
            token: String::new(),
            user,
        };
        world.copy_programs();
        world
    }

    /// Copies the programs: a plain user may not be able to enter the folder in which they are built.
    fn copy_programs(&self) {
        let Some(user) = &self.user else { return };
        for name in ["FSA_BIN", "FSA_SANDBOXD"] {
            std::fs::copy(exported(name), self.folder.path().join(name)).expect("a program can be copied");
        }
        chown(self.folder.path(), Some(user.uid), Some(user.gid)).expect("the folder can be given away");
        // Numbers from the kernel's list of devices (admin-guide/devices.txt).
        let for_all = Mode::from_bits_truncate(0o666);
        let tun = self.folder.path().join(TUN);
        mknod(&tun, SFlag::S_IFCHR, for_all, makedev(10, 200)).expect("a device");
        std::fs::set_permissions(&tun, std::fs::Permissions::from_mode(0o666)).expect("permissions");
    }

    /// Changes the options of the next start.
    pub fn set_options(&mut self, options: &[&str]) {
        self.options = options.iter().map(|text| (*text).to_owned()).collect();
    }

    /// Starts the server of this data folder.
    pub fn serve(&mut self) {
        self.serve_with(&[]);
    }

    fn serve_with(&mut self, more: &[&str]) {
        assert!(self.server.is_none(), "a server runs already");
        self.server = Some(self.spawn(&self.address, more));
    }

    /// Starts one more server on the same data folder, with another address.
    #[must_use]
    pub fn replica(&self) -> Server {
        self.spawn("127.0.0.1:0", &[])
    }

    fn spawn(&self, address: &str, more: &[&str]) -> Server {
        let mut command = self.command(&["serve", "--listen", address]);
        command.args(more).args(&self.options);
        // Storage is the subject of few tests, and btrfs needs loop devices, which not every machine has.
        if !self.options.iter().any(|option| option == "--storage") {
            command.args(["--storage", "copy"]);
        }
        Server::spawn(command)
    }

    /// `fsa` with this world's data folder.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "the tests' subject is a program")]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = match &self.user {
            None => Command::new(exported("FSA_BIN")),
            Some(user) => {
                let mut command = Command::new("unshare");
                command
                    .args(["--mount", "bash", "-euc", AS_PLAIN_USER, "bash"])
                    .arg(self.folder.path().join(TUN))
                    .args([user.uid.to_string(), user.gid.to_string()])
                    .arg(self.folder.path().join("FSA_BIN"))
                    .env("HOME", self.folder.path())
                    .env("FSA_SANDBOXD", self.folder.path().join("FSA_SANDBOXD"));
                command
            }
        };
        command
            .args(arguments)
            // Only worlds that use the image unpack it.
            .env_remove("FSA_WEB_IMAGE")
            .env("FSA_DATA_DIR", self.data())
            .env("FSA_SECRET_DIR", self.folder.path().join("secret"))
            .env("XDG_CONFIG_HOME", self.folder.path().join("config"))
            .env("FSA_URL", self.url())
            .env("FSA_TOKEN", &self.token)
            .current_dir(self.folder.path());
        command
    }

    /// Runs `fsa` and returns its output.
    #[must_use]
    pub fn fsa(&self, arguments: &[&str]) -> std::process::Output {
        self.command(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("fsa runs")
    }

    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.address
            .rsplit(':')
            .next()
            .and_then(|port| port.parse().ok())
            .expect("an address has a port")
    }

    #[must_use]
    pub fn api(&self) -> Api {
        Api::new(&self.url(), &self.token)
    }

    /// Lines that the server printed until it was ready.
    #[must_use]
    pub fn printed(&self) -> &[String] {
        &self.server.as_ref().expect("a server").printed
    }

    /// Kills the server with SIGKILL.
    pub fn crash(&mut self) {
        self.server.take().expect("a server to kill").end(Signal::SIGKILL);
    }

    /// Stops the server with SIGTERM and waits for its drain.
    pub fn drain(&mut self) {
        self.server.take().expect("a server to end").end(Signal::SIGTERM);
    }

    /// The server's standard error so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.server
            .as_ref()
            .map(|server| server.log.lock().expect("log").clone())
            .unwrap_or_default()
    }

    /// Deletes every project through the API, stops everything, and checks that nothing is left over.
    pub async fn finish(mut self) {
        let api = self.api();
        api.delete_all_projects().await;
        let left = leftovers::sandboxes(&self.data());
        assert!(
            left.is_empty(),
            "after every project was deleted there is still: {left:#?}"
        );
        self.drain();
        self.halt();
        drop(self.disk.take());
        let left = leftovers::all(&self.data());
        assert!(left.is_empty(), "after the end there is still: {left:#?}");
    }

    /// Stops what outlives the server: sandboxes, database proxy, PostgreSQL.
    pub fn halt(&self) {
        let output = self.fsa(&["halt", "--yes"]);
        assert!(
            output.status.success(),
            "fsa halt: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            if std::thread::panicking() {
                eprintln!(
                    "--- the server's log ---\n{}",
                    server.log.lock().map(|log| log.clone()).unwrap_or_default()
                );
            }
            server.end(Signal::SIGTERM);
        }
        if self.data().exists() {
            let _ = self.fsa(&["halt", "--yes"]);
        }
    }
}

impl Server {
    fn spawn(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("fsa serve can be started");
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = BufReader::new(child.stderr.take().expect("standard error"));
        let kept = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let mut log = kept.lock().expect("log");
                log.push_str(&line);
                log.push('\n');
            }
        });
        let stdout = BufReader::new(child.stdout.take().expect("standard output"));
        let (sender, lines) = mpsc::sync_channel(64);
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut server = Self {
            child,
            log,
            printed: Vec::new(),
        };
        let deadline = Instant::now() + START;
        // The line that begins with `Ready` is the last one of a start.
        loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let last = line.starts_with("Ready");
                    server.printed.push(line);
                    if last {
                        return server;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    panic!("fsa serve is not ready after {START:?}:\n{}", server.output())
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = server.child.wait();
                    panic!("fsa serve ended ({status:?}):\n{}", server.output())
                }
            }
        }
    }

    fn output(&self) -> String {
        format!("{}\n{}", self.printed.join("\n"), self.log.lock().expect("log"))
    }

    /// `host:port` from the line `Ready on http://host:port`.
    #[must_use]
    pub fn address(&self) -> String {
        self.printed
            .iter()
            .find_map(|line| line.strip_prefix("Ready on http://"))
            .map(|rest| rest.trim_end_matches('/').to_owned())
            .expect("the server prints its address")
    }

    #[must_use]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a process id")
    }

    /// Its resident memory in bytes.
    #[must_use]
    pub fn resident(&self) -> u64 {
        resident(self.pid())
    }

    /// Sends a signal and waits for the end.
    pub fn end(mut self, signal: Signal) {
        let _ = kill(Pid::from_raw(self.pid()), signal);
        let _ = self.child.wait();
    }
}

/// Resident memory of a process in bytes (`VmRSS` of proc_pid_status(5)).
#[must_use]
pub fn resident(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .expect("its memory");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib * 1024
}
