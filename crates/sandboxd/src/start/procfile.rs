//! What is started without being asked for each time: the start command, else a Procfile.

use std::collections::BTreeMap;

/// Bytes of a Procfile that are read.
pub const LONGEST: usize = 64 * 1024;
/// Entries of a Procfile that are run.
const ENTRIES: usize = 16;
/// What a web application finds in `PORT`; entries after the first web one find 100 more each, as
/// foreman has it.
const PORT: u16 = 3000;

/// One supervised command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name in a Procfile; `web` for a start command.
    pub name: String,
    /// For `/bin/sh -c`.
    pub command: String,
    pub port: u16,
}

/// The start command as an entry.
#[must_use]
pub fn single(command: &str) -> Vec<Entry> {
    vec![Entry {
        name: "web".into(),
        command: command.into(),
        port: PORT,
    }]
}

/// The entries of a Procfile, `web` first: lines `name: command`; empty lines and those that
/// begin with `#` are passed over, as are lines that are neither.
#[must_use]
pub fn parse(text: &str) -> Vec<Entry> {
    let mut commands: Vec<(&str, &str)> = Vec::new();
    for line in text.lines() {
        let Some((name, command)) = line.split_once(':') else {
            continue;
        };
        let (name, command) = (name.trim(), command.trim());
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        if name.is_empty() || !name.bytes().all(allowed) || command.is_empty() || command.contains('\0') {
            continue;
        }
        commands.push((name, command));
    }
    commands.sort_by_key(|(name, _)| *name != "web");
    let mut seen = BTreeMap::new();
    commands.retain(|(name, command)| seen.insert(*name, *command).is_none());
    commands.truncate(ENTRIES);
    let ports = (0..).map(|number| PORT + number * 100);
    commands
        .into_iter()
        .zip(ports)
        .map(|((name, command), port)| Entry {
            name: name.into(),
            command: command.into(),
            port,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_and_web_comes_first() {
        let entries = parse(
            "# comment\nworker: node worker.js\n\nweb: npm start -- --port $PORT\nnonsense\nweb: again\n",
        );
        let told: Vec<_> = entries
            .iter()
            .map(|entry| (entry.name.as_str(), entry.command.as_str(), entry.port))
            .collect();
        assert_eq!(
            told,
            [
                ("web", "npm start -- --port $PORT", 3000),
                ("worker", "node worker.js", 3100)
            ]
        );
    }

    #[test]
    fn a_comment_with_a_colon_is_no_entry() {
        assert!(parse("# web: x\n: y\nweb:\n").is_empty());
    }
}
