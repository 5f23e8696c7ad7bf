//! Git credential helper, `fsa-sandboxd git-credential`: git calls it for a user name and a password
//! (gitcredentials(7)). Also the git settings that make git call it.
//!
//! It sends a request to the local proxy and prints the response. Nothing is stored: the password is
//! in the pipe to git and nowhere else. A rejected credential is reported, so that the control plane
//! can renew it or ask a person for another.

use std::{
    collections::BTreeMap,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    time::Duration,
};

use fsa_model::callback;
use secrecy::{ExposeSecret as _, SecretString};

use super::local_proxy::{CREDENTIAL, CREDENTIAL_REJECTED};

/// Time for the control plane to be reached, and to get the credential from its source.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Maximum bytes of git's input and of the response.
const MAX_BYTES: u64 = 64 * 1024;

/// Runs one operation of the helper: `get`, `store` or `erase`, with git's attributes on standard
/// input. `store` does nothing; git calls `erase` for a credential that the repository's server
/// rejected.
///
/// # Errors
/// A sentence for the person who sees git's output.
pub fn run(operation: Option<&str>, url: Option<&str>, token: Option<&str>) -> Result<(), String> {
    let path = match operation {
        Some("get") => CREDENTIAL,
        Some("erase") => CREDENTIAL_REJECTED,
        _ => return Ok(()),
    };
    let (Some(url), Some(token)) = (url, token) else {
        return Err(format!(
            "{} and {} are not set in this process's environment",
            callback::URL_VARIABLE,
            callback::TOKEN_VARIABLE
        ));
    };
    let mut attributes = Vec::new();
    io::stdin()
        .take(MAX_BYTES)
        .read_to_end(&mut attributes)
        .map_err(|error| format!("git's input could not be read: {error}"))?;
    let answer =
        post(url, token, path, &attributes).map_err(|error| format!("there is no credential: {error}"))?;
    if path == CREDENTIAL {
        io::stdout()
            .write_all(&answer)
            .map_err(|error| format!("git does not read the credential: {error}"))
    } else if answer.is_empty() {
        Ok(())
    } else {
        // What to do now, for the person who reads git's output.
        Err(String::from_utf8_lossy(&answer).into_owned())
    }
}

/// Sends one HTTP/1.0 request, so that the response ends with the connection and is not chunked.
fn post(url: &str, token: &str, path: &str, attributes: &[u8]) -> io::Result<Vec<u8>> {
    let address: SocketAddr = url
        .strip_prefix("http://")
        .and_then(|address| address.trim_end_matches('/').parse().ok())
        .ok_or_else(|| {
            io::Error::other(format!(
                "{} is not of the form http://ADDRESS:PORT",
                callback::URL_VARIABLE
            ))
        })?;
    if !address.ip().is_loopback() {
        return Err(io::Error::other(format!(
            "{} is not a loopback address of this sandbox",
            callback::URL_VARIABLE
        )));
    }
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let length = attributes.len();
    write!(
        stream,
        "POST {path} HTTP/1.0\r\nhost: {address}\r\nauthorization: Bearer {token}\r\n\
         content-type: text/plain\r\ncontent-length: {length}\r\n\r\n"
    )?;
    stream.write_all(attributes)?;
    let mut answer = Vec::new();
    stream.take(MAX_BYTES).read_to_end(&mut answer)?;
    let (status, body) = parse(&answer).ok_or_else(|| io::Error::other("the response is not valid HTTP"))?;
    match status {
        200 => Ok(body.to_vec()),
        // There is no credential for this repository: git calls the next helper, or asks a person.
        204 | 404 => Ok(Vec::new()),
        _ => Err(io::Error::other(String::from_utf8_lossy(body).into_owned())),
    }
}

/// Splits a response into status and body.
fn parse(answer: &[u8]) -> Option<(u16, &[u8])> {
    let end = memchr::memmem::find(answer, b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, &answer[end + 4..]))
}

/// Adds the git settings that make `program` the credential helper to an environment, after the
/// settings that it has already.
pub fn configure(environment: &mut BTreeMap<String, SecretString>, program: &Path) {
    const COUNT: &str = "GIT_CONFIG_COUNT";
    let Some(program) = program.to_str().filter(|path| !path.contains('\'')) else {
        return;
    };
    let before: usize = match environment.get(COUNT) {
        None => 0,
        Some(count) => match count.expose_secret().parse() {
            Ok(count) if count < 1000 => count,
            // An invalid count; git refuses it as well.
            _ => return,
        },
    };
    let settings = [
        ("credential.helper", format!("!'{program}' git-credential")),
        // Makes git send the repository's path.
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
    fn a_response_is_parsed_and_an_invalid_one_is_refused() {
        assert_eq!(
            parse(b"HTTP/1.0 200 OK\r\na: b\r\n\r\nusername=x\n"),
            Some((200, &b"username=x\n"[..]))
        );
        assert_eq!(parse(b"HTTP/1.0 200 OK\r\n"), None);
        assert_eq!(parse(b"x\r\n\r\n"), None);
    }

    #[test]
    fn the_helper_is_added_after_existing_settings() {
        let mut environment = BTreeMap::from([("GIT_CONFIG_COUNT".to_owned(), "1".to_owned().into())]);
        configure(&mut environment, Path::new("/.fsa/sandboxd"));
        let get = |name: &str| environment[name].expose_secret().to_owned();
        assert_eq!(get("GIT_CONFIG_COUNT"), "3");
        assert_eq!(get("GIT_CONFIG_KEY_1"), "credential.helper");
        assert_eq!(get("GIT_CONFIG_VALUE_1"), "!'/.fsa/sandboxd' git-credential");
        assert_eq!(get("GIT_CONFIG_KEY_2"), "credential.useHttpPath");
    }

    #[test]
    fn the_token_is_sent_to_a_loopback_address_only() {
        for url in ["http://10.0.0.1:80", "https://127.0.0.1:1", "http://example.org"] {
            assert!(post(url, "t", CREDENTIAL, b"").is_err(), "{url}");
        }
    }
}
