//! Parser of `git status --porcelain=v2 --branch -z` (git-status(1), Porcelain Format Version 2). Pure. The output
//! comes from a sandbox: records that cannot be parsed are left out.

use fsa_model::git::{GitChange, GitFile, GitStatus};

/// Most files that are listed.
pub const MAX_FILES: usize = 1000;

/// Parses git's output; `cut` says that its end is missing.
#[must_use]
pub fn parse(text: &str, cut: bool) -> GitStatus {
    let mut status = GitStatus {
        truncated: cut,
        ..GitStatus::default()
    };
    // Every record ends with a NUL: the part after the last one was cut.
    let whole = text.rfind('\0').map_or("", |end| &text[..end]);
    let mut records = whole.split('\0');
    while let Some(record) = records.next() {
        let file = match record.split_once(' ') {
            Some(("#", header)) => {
                head(header, &mut status);
                continue;
            }
            Some(("1", rest)) => changed(rest, 6, None),
            // The former name is a separate record.
            Some(("2", rest)) => changed(rest, 7, records.next()),
            Some(("u", rest)) => field(rest, 9).map(|path| GitFile {
                conflict: true,
                ..file(path)
            }),
            Some(("?", path)) => Some(GitFile {
                unstaged: Some(GitChange::Untracked),
                ..file(path)
            }),
            _ => None,
        };
        let Some(file) = file else { continue };
        if status.files.len() == MAX_FILES {
            status.truncated = true;
            break;
        }
        status.files.push(file);
    }
    status
}

fn head(header: &str, status: &mut GitStatus) {
    let Some((name, value)) = header.split_once(' ') else {
        return;
    };
    let value_unless = |none: &str| (value != none).then(|| value.to_owned());
    match name {
        "branch.oid" => status.head = value_unless("(initial)"),
        "branch.head" => status.branch = value_unless("(detached)"),
        "branch.upstream" => status.upstream = Some(value.to_owned()),
        "branch.ab" => {
            let mut counts = value
                .split(' ')
                .map(|count| count.trim_start_matches(['+', '-']).parse().unwrap_or(0));
            status.ahead = counts.next().unwrap_or(0);
            status.behind = counts.next().unwrap_or(0);
        }
        _ => {}
    }
}

/// Parses `XY` and the fields up to the path, which may contain spaces.
fn changed(rest: &str, fields_before: usize, from: Option<&str>) -> Option<GitFile> {
    let mut letters = rest.chars();
    let (staged, unstaged) = (letters.next()?, letters.next()?);
    Some(GitFile {
        from: from.map(str::to_owned),
        staged: change(staged),
        unstaged: change(unstaged),
        ..file(field(rest, fields_before + 1)?)
    })
}

/// The text after `before` fields.
fn field(rest: &str, before: usize) -> Option<&str> {
    rest.splitn(before + 1, ' ').nth(before)
}

fn file(path: &str) -> GitFile {
    GitFile {
        path: path.to_owned(),
        from: None,
        staged: None,
        unstaged: None,
        conflict: false,
    }
}

const fn change(letter: char) -> Option<GitChange> {
    match letter {
        'A' => Some(GitChange::Added),
        'M' => Some(GitChange::Modified),
        'D' => Some(GitChange::Deleted),
        'R' => Some(GitChange::Renamed),
        'C' => Some(GitChange::Copied),
        'T' => Some(GitChange::TypeChanged),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ZERO: &str = "0000000000000000000000000000000000000000";

    #[test]
    fn all_record_kinds_are_parsed() {
        let text = format!(
            "# branch.oid 1234abcd\0# branch.head main\0# branch.upstream origin/main\0# branch.ab +2 -13\0\
             1 M. N... 100644 100644 100644 {ZERO} {ZERO} a file\0\
             1 .D N... 100644 100644 000000 {ZERO} {ZERO} gone\0\
             2 RM N... 100644 100644 100644 {ZERO} {ZERO} R100 new name\0old name\0\
             u UU N... 100644 100644 100644 100644 {ZERO} {ZERO} {ZERO} both sides\0\
             ? new\nline\0! ignored\0"
        );

        let status = parse(&text, false);

        assert_eq!(
            (status.branch.as_deref(), status.ahead, status.behind),
            (Some("main"), 2, 13)
        );
        assert_eq!(status.upstream.as_deref(), Some("origin/main"));
        let files: Vec<_> = status
            .files
            .iter()
            .map(|file| (file.path.as_str(), file.staged, file.unstaged, file.conflict))
            .collect();
        use GitChange::{Deleted, Modified, Renamed, Untracked};
        assert_eq!(
            files,
            [
                ("a file", Some(Modified), None, false),
                ("gone", None, Some(Deleted), false),
                ("new name", Some(Renamed), Some(Modified), false),
                ("both sides", None, None, true),
                ("new\nline", None, Some(Untracked), false),
            ]
        );
        assert_eq!(status.files[2].from.as_deref(), Some("old name"));
        assert!(!status.truncated);
    }

    #[test]
    fn repositories_without_commits_or_branches_are_parsed() {
        let first = parse("# branch.oid (initial)\0# branch.head main\0", false);
        assert_eq!((first.head, first.branch.as_deref()), (None, Some("main")));
        let detached = parse("# branch.oid 12\0# branch.head (detached)\0", false);
        assert_eq!((detached.head.as_deref(), detached.branch), (Some("12"), None));
    }

    #[test]
    fn truncated_names_are_left_out() {
        let status = parse("? whole\0? ha", true);
        assert_eq!(status.files.len(), 1);
        assert!(status.truncated);
        let many = "? x\0".repeat(MAX_FILES + 1);
        let status = parse(&many, false);
        assert!(status.truncated && status.files.len() == MAX_FILES);
    }

    proptest! {
        #[test]
        fn any_output_is_parsed_without_a_panic(text in "([#12u?!]? ?[a-zA-Z.+0-9ä -]{0,20}\0?){0,20}") {
            prop_assert!(parse(&text, false).files.len() <= MAX_FILES);
        }
    }
}
