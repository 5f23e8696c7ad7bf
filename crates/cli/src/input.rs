//! Secrets from standard input, where no list of processes shows them.

use std::io::{BufRead as _, IsTerminal as _, Read as _, Write as _};

use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};

use crate::{failure::Failure, output};

/// A secret: on a terminal a line that is not shown, otherwise all of standard input without the end of its line.
pub fn secret(prompt: &str) -> Result<String, Failure> {
    if std::io::stdin().is_terminal() {
        return hidden(prompt);
    }
    let mut text = String::new();
    std::io::stdin().take(100_000).read_to_string(&mut text)?;
    let text = text.trim_end_matches(['\n', '\r']);
    if text.is_empty() {
        return Err(Failure::usage("write the secret to standard input"));
    }
    Ok(text.to_owned())
}

/// A line, after the prompt on a terminal.
pub fn asked(prompt: &str) -> Result<String, Failure> {
    if std::io::stdin().is_terminal() {
        let _ = write!(std::io::stderr(), "{prompt}");
    }
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    let line = line.trim().to_owned();
    if line.is_empty() {
        Err(Failure::usage("standard input is empty"))
    } else {
        Ok(line)
    }
}

/// A line that a terminal does not show.
pub fn hidden(prompt: &str) -> Result<String, Failure> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return asked(prompt);
    }
    let before = tcgetattr(&stdin).map_err(std::io::Error::from)?;
    let mut hidden = before.clone();
    hidden.local_flags.remove(LocalFlags::ECHO);
    tcsetattr(&stdin, SetArg::TCSAFLUSH, &hidden).map_err(std::io::Error::from)?;
    let answer = asked(prompt);
    let _ = tcsetattr(&stdin, SetArg::TCSAFLUSH, &before);
    output::note("");
    answer
}
