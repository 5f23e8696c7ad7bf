//! Input from the terminal or standard input. Secrets are never arguments, which every process can read.

use std::io::{BufRead as _, IsTerminal as _, Read as _, Write as _};

use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};

use crate::{failure::Failure, output};

/// Reads a secret: on a terminal a line without echo, otherwise all of standard input without its line end.
pub fn secret(prompt: &str) -> Result<String, Failure> {
    if std::io::stdin().is_terminal() {
        return prompt_hidden(prompt);
    }
    let mut text = String::new();
    std::io::stdin().take(100_000).read_to_string(&mut text)?;
    let text = text.trim_end_matches(['\n', '\r']);
    if text.is_empty() {
        return Err(Failure::usage("write the secret to standard input"));
    }
    Ok(text.to_owned())
}

/// Reads a line, on a terminal after the prompt.
pub fn prompt_line(prompt: &str) -> Result<String, Failure> {
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

/// Reads a line without echo.
pub fn prompt_hidden(prompt: &str) -> Result<String, Failure> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return prompt_line(prompt);
    }
    let before = tcgetattr(&stdin).map_err(std::io::Error::from)?;
    let mut prompt_hidden = before.clone();
    prompt_hidden.local_flags.remove(LocalFlags::ECHO);
    tcsetattr(&stdin, SetArg::TCSAFLUSH, &prompt_hidden).map_err(std::io::Error::from)?;
    let answer = prompt_line(prompt);
    let _ = tcsetattr(&stdin, SetArg::TCSAFLUSH, &before);
    output::notice("");
    answer
}
