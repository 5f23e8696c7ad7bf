//! Procfile parser: the supervised commands of a Procfile, or the start command as one.

use std::collections::BTreeMap;

/// Maximum bytes of a Procfile.
pub const MAX_PROCFILE_BYTES: usize = 64 * 1024;
/// Maximum entries of a Procfile.
const MAX_ENTRIES: usize = 16;
/// `PORT` of the first entry; each further entry gets 100 more, like in foreman.
const FIRST_PORT: u16 = 3000;

/// Supervised command.
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
        port: FIRST_PORT,
    }]
}

/// Parses the entries of a Procfile, `web` first: lines `name: command`. Empty lines, comments (`#`)
/// and invalid lines are skipped.
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
    commands.truncate(MAX_ENTRIES);
    let ports = (0..).map(|number| FIRST_PORT + number * 100);
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
    fn entries_are_parsed_and_web_comes_first() {
        let entries = parse(
            "# comment\nworker: node worker.js\n\nweb: npm start -- --port $PORT\nnonsense\nweb: again\n",
        );
        let parsed: Vec<_> = entries
            .iter()
            .map(|entry| (entry.name.as_str(), entry.command.as_str(), entry.port))
            .collect();
        assert_eq!(
            parsed,
            [
                ("web", "npm start -- --port $PORT", 3000),
                ("worker", "node worker.js", 3100)
            ]
        );
    }

    #[test]
    fn a_comment_with_a_colon_is_skipped() {
        assert!(parse("# web: x\n: y\nweb:\n").is_empty());
    }
}
