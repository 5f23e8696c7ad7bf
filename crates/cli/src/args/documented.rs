//! Documented commands: the command line accepts each `fsa …` that README and docs mention.

use std::path::{Path, PathBuf};

use clap::{Parser as _, error::ErrorKind};

use super::Arguments;

/// The documents of the repository.
fn documents() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut found = vec![root.join("README.md"), root.join("images/README.md")];
    for folder in ["docs/guide", "docs/operations"] {
        let entries = std::fs::read_dir(root.join(folder)).unwrap();
        found.extend(entries.map(|entry| entry.unwrap().path()));
    }
    found
}

/// The code spans of a line that are a command, and the line itself if it is one in a code block.
fn commands(line: &str) -> Vec<&str> {
    let block = line
        .strip_prefix("    ")
        .map(|line| line.strip_prefix("$ ").unwrap_or(line))
        .into_iter();
    let spans = line.split('`').skip(1).step_by(2);
    block
        .chain(spans)
        .filter(|text| text.starts_with("fsa "))
        .collect()
}

/// The words of a command, each with its alternatives (`start|stop`); optional words (`[--all]`) are given.
fn words(command: &str) -> Vec<Vec<String>> {
    let quoted = |(index, part): (usize, &str)| {
        if index % 2 == 1 {
            part.replace(' ', "_")
        } else {
            part.to_owned()
        }
    };
    let command: String = command.split(['\'', '"']).enumerate().map(quoted).collect();
    command
        .split_whitespace()
        .take_while(|word| !["#", "<", ">", "|", "\\|"].contains(word))
        .map(|word| word.replace('\\', "").replace(['[', ']', '…'], ""))
        // A placeholder of a number.
        .map(|word| if word == "PORT" { "3000".to_owned() } else { word })
        .filter(|word| !word.is_empty())
        .map(|word| word.split('|').map(str::to_owned).collect())
        .collect()
}

/// Every command that one of the words' alternatives gives.
fn variants(words: &[Vec<String>]) -> Vec<Vec<String>> {
    words.iter().fold(vec![Vec::new()], |before, alternatives| {
        before
            .iter()
            .flat_map(|start| {
                alternatives
                    .iter()
                    .map(|word| [start.as_slice(), std::slice::from_ref(word)].concat())
            })
            .collect()
    })
}

#[test]
fn the_command_line_accepts_every_documented_command() {
    let mut checked = 0;
    for document in documents() {
        let text = std::fs::read_to_string(&document).unwrap();
        for command in text.lines().flat_map(commands) {
            for words in variants(&words(command)) {
                checked += 1;
                let Err(error) = Arguments::try_parse_from(&words) else {
                    continue;
                };
                // A text may name a command without its arguments.
                let is_part = matches!(
                    error.kind(),
                    ErrorKind::MissingRequiredArgument
                        | ErrorKind::MissingSubcommand
                        | ErrorKind::DisplayHelp
                        | ErrorKind::DisplayVersion
                        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                );
                assert!(is_part, "{}: {command}\n{error}", document.display());
            }
        }
    }
    assert!(checked > 100, "{checked}");
}
