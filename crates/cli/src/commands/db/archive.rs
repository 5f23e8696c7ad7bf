//! `fsa db dump` and `fsa db restore`: the database as an archive of pg_dump's custom format.
//!
//! PostgreSQL's own programs do the work, in the sandbox: there are the database, the environment that names it, and
//! client programs as new as the server.

use std::{
    ffi::OsString,
    io::{BufRead as _, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
};

use fsa_model::sandboxd::ExecRequest;
use tokio::{
    fs::File,
    io::{AsyncRead, AsyncReadExt as _},
};

use crate::{
    client::{Client, encode},
    commands::exec,
    failure::{Code, Failure, Outcome},
    output,
};

/// The first bytes of an archive in pg_dump's custom format.
const MAGIC: &[u8] = b"PGDMP";
/// Replaces the content of the database in one transaction.
const RESTORE: &str = include_str!("restore.sh");
/// Exit code of a shell whose command does not exist.
const NO_PROGRAM: u8 = 127;

pub async fn dump(client: &Client, project: &str, file: Option<&Path>) -> Outcome {
    let command = ["pg_dump", "--format=custom", "--no-password"].map(str::to_owned);
    let request = request(&command);
    let path = path(project);
    let Some(file) = file else {
        if std::io::stdout().is_terminal() {
            return Err(Failure::usage(
                "an archive is not for a terminal: name a file, or redirect the output",
            ));
        }
        let code = exec::stream(client, &path, &request, NO_INPUT, &mut tokio::io::stdout()).await?;
        return Ok(with_hint(code, "pg_dump"));
    };
    // Complete or not at all.
    let part = with_suffix(file, ".part");
    let unwritten =
        |error: std::io::Error| Failure::failed(format!("{} cannot be written: {error}", part.display()));
    let mut to = private_file(&part).await.map_err(unwritten)?;
    let outcome = exec::stream(client, &path, &request, NO_INPUT, &mut to).await;
    let kept = match outcome {
        Ok(0) => to.sync_all().await.and_then(|()| std::fs::rename(&part, file)),
        _ => std::fs::remove_file(&part),
    };
    let code = outcome?;
    kept.map_err(unwritten)?;
    Ok(with_hint(code, "pg_dump"))
}

pub async fn restore(client: &Client, project: &str, file: &Path, yes: bool) -> Outcome {
    let unread =
        |error: std::io::Error| Failure::failed(format!("{} cannot be read: {error}", file.display()));
    let from_stdin = file == Path::new("-");
    let mut archive: Box<dyn AsyncRead + Send + Unpin> = match from_stdin {
        true => Box::new(tokio::io::stdin()),
        false => Box::new(File::open(file).await.map_err(unread)?),
    };
    let mut start = Vec::new();
    (&mut archive)
        .take(MAGIC.len() as u64)
        .read_to_end(&mut start)
        .await
        .map_err(unread)?;
    if start != MAGIC {
        return Err(Failure::usage(format!(
            "{} is not an archive of pg_dump's custom format (`fsa db dump` writes one). SQL text is for \
             `fsa db psql {project} -- -f -`",
            file.display()
        )));
    }
    if !yes && !confirmed(project, from_stdin)? {
        return Err(Failure::new(Code::Failed, "the database was not replaced"));
    }
    let command = ["sh", "-c", RESTORE].map(str::to_owned);
    let input = std::io::Cursor::new(start).chain(archive);
    let code = exec::stream(
        client,
        &path(project),
        &request(&command),
        Some(input),
        &mut tokio::io::stdout(),
    )
    .await?;
    match code {
        0 => output::notice(&format!("the database of {project} is restored")),
        _ => output::notice("fsa: the archive was not restored; the database is as it was"),
    }
    Ok(with_hint(code, "pg_restore and psql"))
}

const NO_INPUT: Option<tokio::io::Empty> = None;

fn path(project: &str) -> String {
    format!("/api/projects/{}/exec", encode(project))
}

fn request(command: &[String]) -> ExecRequest {
    ExecRequest {
        command: command.to_vec(),
        ..ExecRequest::default()
    }
}

fn with_hint(code: u8, programs: &str) -> u8 {
    if code == NO_PROGRAM {
        output::notice(&format!(
            "fsa: {programs} must be installed in the project's image (Debian: postgresql-client)"
        ));
    }
    code
}

fn with_suffix(file: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(file);
    name.push(suffix);
    name.into()
}

/// A new file that other users cannot read: it has all data of a project.
async fn private_file(path: &Path) -> std::io::Result<File> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .await
}

/// Asks for the project's name as a confirmation.
fn confirmed(project: &str, input_is_archive: bool) -> Result<bool, Failure> {
    if input_is_archive || !std::io::stdin().is_terminal() {
        return Err(Failure::usage(
            "standard input is not for an answer: confirm with --yes that the database is replaced",
        ));
    }
    let _ = write!(
        std::io::stderr(),
        "This replaces everything in the database of {project}. Type its name to confirm: "
    );
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim() == project)
}
