//! Command line: where to listen, where the boot document is, which folders to use.
//!
//! Without arguments everything comes through descriptors; the local driver uses that. The arguments
//! are for environments where descriptors cannot be passed (a pod) and for tests. No secret is ever
//! an argument.

use std::{
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use fsa_model::{callback, sandboxd::HOME};

/// Listening socket of the control interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// The listening Unix socket that was inherited as a descriptor.
    Inherited,
    Tcp(SocketAddr),
    /// Path at which the socket is created.
    Unix(PathBuf),
}

/// Parsed command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub control: Control,
    /// The file with the boot document; else it is read from the inherited descriptor.
    pub boot: Option<PathBuf>,
    /// Address of the terminal port.
    pub terminal: Option<SocketAddr>,
    /// Address of the callback's local proxy ([`crate::callback`]).
    pub callback: SocketAddr,
    pub home: PathBuf,
    /// The folder of `passwd`, `group`, `hosts`, `resolv.conf`, `skel`.
    pub etc: PathBuf,
    /// Adds no account and switches to no user: everything runs as the user that started sandboxd.
    pub user_mode: bool,
    /// Adds this process's own environment below the boot document's: it is the image's environment,
    /// where the control plane does not read the image.
    pub keep_environment: bool,
}

/// Text of `--help`.
pub const USAGE: &str = "\
fsa-sandboxd: process 1 of a sandbox of FullStack Agent

Without options: the control socket is descriptor 3, the boot document descriptor 4.

  --control ADDRESS   listen at IP:PORT, or create a Unix socket at /PATH
  --boot FILE         read the boot document (JSON) from FILE
  --terminal IP:PORT  serve the terminal, and nothing else, at this address
  --callback IP:PORT  take programs' requests to the control plane at this address (default 127.0.0.1:7682)
  --home DIR          the person's home (default /home/dev); the project is DIR/project
  --etc DIR           the folder of passwd, group, hosts, resolv.conf, skel (default /etc)
  --user-mode         add no account, switch to no user
  --keep-environment  also give programs the environment that this process was started with
  --install PATH      copy this program to PATH, and exit
  --version           print the version

fsa-sandboxd git-credential get: git's credential helper (gitcredentials(7))
";

/// What to do, according to the arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invocation {
    Run(Options),
    /// Copy this program to that path, for a container with another image.
    Install(PathBuf),
    Help,
    Version,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            control: Control::Inherited,
            boot: None,
            terminal: None,
            callback: SocketAddr::from(([127, 0, 0, 1], callback::PORT)),
            home: HOME.into(),
            etc: "/etc".into(),
            user_mode: false,
            keep_environment: false,
        }
    }
}

impl Options {
    /// Parses the arguments after the program's name.
    ///
    /// # Errors
    /// A sentence for the person who wrote them.
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Invocation, String> {
        let mut options = Self::default();
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let name = argument.to_string_lossy().into_owned();
            let mut value = || {
                arguments
                    .next()
                    .ok_or_else(|| format!("`{name}` needs a value; `--help` lists the options"))
            };
            match name.as_str() {
                "--control" => options.control = control(&value()?)?,
                "--boot" => options.boot = Some(value()?.into()),
                "--terminal" => options.terminal = Some(address("--terminal", &value()?)?),
                "--callback" => options.callback = address("--callback", &value()?)?,
                "--home" => options.home = absolute("--home", value()?)?,
                "--etc" => options.etc = absolute("--etc", value()?)?,
                "--user-mode" => options.user_mode = true,
                "--keep-environment" => options.keep_environment = true,
                "--install" => return Ok(Invocation::Install(absolute("--install", value()?)?)),
                "--help" | "-h" => return Ok(Invocation::Help),
                "--version" | "-V" => return Ok(Invocation::Version),
                _ => return Err(format!("`{name}` is not an option; `--help` lists them")),
            }
        }
        Ok(Invocation::Run(options))
    }

    /// The project's folder.
    #[must_use]
    pub fn project(&self) -> PathBuf {
        self.home.join("project")
    }
}

fn control(value: &OsString) -> Result<Control, String> {
    if Path::new(value).is_absolute() {
        return Ok(Control::Unix(value.into()));
    }
    address("--control", value).map(Control::Tcp)
}

fn address(name: &str, value: &OsString) -> Result<SocketAddr, String> {
    value.to_str().and_then(|text| text.parse().ok()).ok_or_else(|| {
        format!("`{name}` must be an address such as 0.0.0.0:7681, not {value:?}; names are not resolved")
    })
}

fn absolute(name: &str, value: OsString) -> Result<PathBuf, String> {
    let path = PathBuf::from(value);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(format!(
            "`{name}` must be an absolute path, not {}",
            path.display()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Invocation, String> {
        Options::parse(arguments.iter().map(OsString::from))
    }

    #[test]
    fn without_arguments_everything_comes_through_descriptors() {
        assert_eq!(parse(&[]), Ok(Invocation::Run(Options::default())));
    }

    #[test]
    fn an_address_means_a_tcp_socket_and_a_path_a_unix_socket() {
        let Ok(Invocation::Run(options)) = parse(&["--control", "127.0.0.1:9", "--terminal", "[::]:7681"])
        else {
            panic!("it was not parsed");
        };
        assert_eq!(options.control, Control::Tcp("127.0.0.1:9".parse().unwrap()));
        assert_eq!(options.terminal, Some("[::]:7681".parse().unwrap()));
        assert_eq!(
            parse(&["--install", "/.fsa/sandboxd"]),
            Ok(Invocation::Install("/.fsa/sandboxd".into()))
        );
        let Ok(Invocation::Run(options)) = parse(&["--control", "/run/c.sock"]) else {
            panic!("it was not parsed");
        };
        assert_eq!(options.control, Control::Unix("/run/c.sock".into()));
    }

    #[test]
    fn a_wrong_argument_is_named() {
        for (arguments, word) in [
            (vec!["--controll", "x"], "--controll"),
            (vec!["--control"], "--control"),
            (vec!["--terminal", "localhost:1"], "localhost:1"),
            (vec!["--home", "here"], "here"),
        ] {
            let error = parse(&arguments).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }
}
