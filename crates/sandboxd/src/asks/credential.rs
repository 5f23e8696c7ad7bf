//! `fsa-sandboxd git-credential`: the helper that git calls for a user name and a password
//! (gitcredentials(7)), and the settings that make git call it.
//!
//! It asks at the sandbox's own port and prints what it gets. Nothing is kept: the password is in
//! the pipe to git and nowhere else. That a server refused it is passed on, so that whoever keeps
//! the credential can renew it or ask for another.

use std::{
    collections::BTreeMap,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    time::Duration,
};

use secrecy::{ExposeSecret as _, SecretString};

use super::port::{CREDENTIAL, CREDENTIAL_REFUSED};

/// For the control plane to be reached, and to ask whoever keeps the credential.
const PATIENCE: Duration = Duration::from_secs(60);
/// Of what git says and of what is answered.
const LONGEST: u64 = 64 * 1024;

/// Runs one operation of the helper: `get`, `store` or `erase`, with git's words on standard
/// input. There is nothing here that could be stored; `erase` is git's word for a credential that
/// the repository's server refused.
///
/// # Errors
/// A sentence for the person who sees git's output.
pub fn run(operation: Option<&str>, url: Option<&str>, token: Option<&str>) -> Result<(), String> {
    let path = match operation {
        Some("get") => CREDENTIAL,
        Some("erase") => CREDENTIAL_REFUSED,
        _ => return Ok(()),
    };
    let (Some(url), Some(token)) = (url, token) else {
        return Err("this process was not told how to ask the control plane (FSA_ASKS_URL)".into());
    };
    let mut words = Vec::new();
    io::stdin()
        .take(LONGEST)
        .read_to_end(&mut words)
        .map_err(|error| format!("git's question could not be read: {error}"))?;
    let answer = ask(url, token, path, &words).map_err(|error| format!("there is no credential: {error}"))?;
    if path == CREDENTIAL {
        io::stdout()
            .write_all(&answer)
            .map_err(|error| format!("git does not read the answer: {error}"))
    } else if answer.is_empty() {
        Ok(())
    } else {
        // What to do now, for the person who reads git's output.
        Err(String::from_utf8_lossy(&answer).into_owned())
    }
}

/// One request of HTTP/1.0, so that the answer ends with the connection and nothing is chunked.
fn ask(url: &str, token: &str, path: &str, words: &[u8]) -> io::Result<Vec<u8>> {
    let address: SocketAddr = url
        .strip_prefix("http://")
        .and_then(|address| address.trim_end_matches('/').parse().ok())
        .ok_or_else(|| io::Error::other("FSA_ASKS_URL is not of the form http://ADDRESS:PORT"))?;
    if !address.ip().is_loopback() {
        return Err(io::Error::other("FSA_ASKS_URL leads out of this sandbox"));
    }
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let length = words.len();
    write!(
        stream,
        "POST {path} HTTP/1.0\r\nhost: {address}\r\nauthorization: Bearer {token}\r\n\
         content-type: text/plain\r\ncontent-length: {length}\r\n\r\n"
    )?;
    stream.write_all(words)?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer)?;
    let (status, body) = parsed(&answer).ok_or_else(|| io::Error::other("the answer makes no sense"))?;
    match status {
        200 => Ok(body.to_vec()),
        // Not this project's: git goes on to the next helper, or asks a person.
        204 | 404 => Ok(Vec::new()),
        _ => Err(io::Error::other(String::from_utf8_lossy(body).into_owned())),
    }
}

/// The status and the body of an answer.
fn parsed(answer: &[u8]) -> Option<(u16, &[u8])> {
    let end = memchr::memmem::find(answer, b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, &answer[end + 4..]))
}

/// Adds to an environment that git asks this program: after settings that are there already.
pub fn configure(environment: &mut BTreeMap<String, SecretString>, program: &Path) {
    const COUNT: &str = "GIT_CONFIG_COUNT";
    let Some(program) = program.to_str().filter(|path| !path.contains('\'')) else {
        return;
    };
    let before: usize = match environment.get(COUNT) {
        None => 0,
        Some(count) => match count.expose_secret().parse() {
            Ok(count) if count < 1000 => count,
            // git refuses it anyway; it is not ours to mend.
            _ => return,
        },
    };
    let settings = [
        ("credential.helper", format!("!'{program}' git-credential")),
        // So that git says for which repository it asks.
        ("credential.useHttpPath", "true".to_owned()),
    ];
    let after = before + settings.len();
    for (number, (key, value)) in (before..).zip(settings) {
        environment.insert(format!("GIT_CONFIG_KEY_{number}"), key.to_owned().into());
        environment.insert(format!("GIT_CONFIG_VALUE_{number}"), value.into());
    }
    environment.insert(COUNT.into(), after.to_string().into());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_and_nonsense_is_not() {
        assert_eq!(
            parsed(b"HTTP/1.0 200 OK\r\na: b\r\n\r\nusername=x\n"),
            Some((200, &b"username=x\n"[..]))
        );
        assert_eq!(parsed(b"HTTP/1.0 200 OK\r\n"), None);
        assert_eq!(parsed(b"x\r\n\r\n"), None);
    }

    #[test]
    fn the_helper_comes_after_settings_that_are_there() {
        let mut environment = BTreeMap::from([("GIT_CONFIG_COUNT".to_owned(), "1".to_owned().into())]);
        configure(&mut environment, Path::new("/.fsa/sandboxd"));
        let get = |name: &str| environment[name].expose_secret().to_owned();
        assert_eq!(get("GIT_CONFIG_COUNT"), "3");
        assert_eq!(get("GIT_CONFIG_KEY_1"), "credential.helper");
        assert_eq!(get("GIT_CONFIG_VALUE_1"), "!'/.fsa/sandboxd' git-credential");
        assert_eq!(get("GIT_CONFIG_KEY_2"), "credential.useHttpPath");
    }

    #[test]
    fn a_token_is_sent_to_the_loopback_alone() {
        for url in ["http://10.0.0.1:80", "https://127.0.0.1:1", "http://example.org"] {
            assert!(ask(url, "t", CREDENTIAL, b"").is_err(), "{url}");
        }
    }
}
