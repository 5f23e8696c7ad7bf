//! Secrets from standard input, where no list of processes shows them.

use std::io::Read as _;

use crate::failure::Failure;

/// All of standard input, without the end of its line.
pub fn secret() -> Result<String, Failure> {
    let mut text = String::new();
    std::io::stdin().take(100_000).read_to_string(&mut text)?;
    let text = text.trim_end_matches(['\n', '\r']);
    if text.is_empty() {
        return Err(Failure::usage("write the secret to standard input"));
    }
    Ok(text.to_owned())
}
