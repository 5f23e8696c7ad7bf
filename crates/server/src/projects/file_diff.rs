//! Difference of a file between two states, as text: what is text, what is shown, and where that ends. Pure.

use std::time::Duration;

use fsa_model::file_diff::{FileDiff, NotShown};
use similar::TextDiff;

/// Longest text of a difference, in bytes.
const TEXT_MAX: usize = 1 << 20;
/// Equal lines around a changed one.
const CONTEXT: usize = 3;
/// Time after which a difference is no longer the shortest one.
const TIME: Duration = Duration::from_secs(2);

/// One state of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileState {
    Absent,
    NotRegular,
    TooLarge,
    Binary,
    Text(String),
}

impl FileState {
    /// The state of a file with this content. Like git, a file with a zero byte is not text.
    #[must_use]
    pub fn of(content: Vec<u8>) -> Self {
        match String::from_utf8(content) {
            Ok(text) if !text.contains('\0') => Self::Text(text),
            _ => Self::Binary,
        }
    }
}

/// Compares two states of the file `path`.
#[must_use]
pub fn compare(path: &str, before: &FileState, after: &FileState) -> FileDiff {
    let mut diff = FileDiff {
        path: path.to_owned(),
        text: None,
        truncated: false,
        not_shown: None,
    };
    let has = |state: FileState| *before == state || *after == state;
    diff.not_shown = match (before, after) {
        (FileState::Absent, FileState::Absent) => Some(NotShown::Absent),
        _ if has(FileState::NotRegular) => Some(NotShown::NotAFile),
        _ if has(FileState::TooLarge) => Some(NotShown::TooLarge),
        _ if has(FileState::Binary) => Some(NotShown::Binary),
        _ => None,
    };
    if diff.not_shown.is_none() {
        let (text, truncated) = unified(path, before, after);
        diff.text = Some(text);
        diff.truncated = truncated;
    }
    diff
}

fn unified(path: &str, before: &FileState, after: &FileState) -> (String, bool) {
    let text = |state: &FileState| match state {
        FileState::Text(text) => text.clone(),
        _ => String::new(),
    };
    let name = |state: &FileState, side: &str| match state {
        FileState::Absent => "/dev/null".to_owned(),
        _ => format!("{side}{}", path.escape_debug()),
    };
    let (old, new) = (text(before), text(after));
    let diff = TextDiff::configure().timeout(TIME).diff_lines(&old, &new);
    let mut shown = diff
        .unified_diff()
        .context_radius(CONTEXT)
        .header(&name(before, "a"), &name(after, "b"))
        .to_string();
    if shown.len() <= TEXT_MAX {
        return (shown, false);
    }
    let end = (0..=TEXT_MAX)
        .rev()
        .find(|end| shown.is_char_boundary(*end))
        .unwrap_or(0);
    let line = shown[..end].rfind('\n').map_or(end, |line| line + 1);
    shown.truncate(line);
    (shown, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> FileState {
        FileState::of(text.into())
    }

    #[test]
    fn a_changed_file_is_shown_in_the_unified_format() {
        let diff = compare(
            "/home/dev/a",
            &text("one\ntwo\nthree\n"),
            &text("one\n2\nthree\n"),
        );
        assert_eq!(
            diff.text.as_deref(),
            Some("--- a/home/dev/a\n+++ b/home/dev/a\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n")
        );
        let same = compare("/a", &text("one\n"), &text("one\n"));
        assert_eq!((same.text.as_deref(), same.not_shown), (Some(""), None));
    }

    #[test]
    fn an_added_and_a_removed_file_have_no_other_side() {
        let added = compare("/a", &FileState::Absent, &text("x"));
        assert_eq!(
            added.text.as_deref(),
            Some("--- /dev/null\n+++ b/a\n@@ -0,0 +1 @@\n+x\n\\ No newline at end of file\n")
        );
        let removed = compare("/a", &text("x\n"), &FileState::Absent);
        assert!(removed.text.unwrap().ends_with("@@ -1 +0,0 @@\n-x\n"));
    }

    #[test]
    fn what_is_not_text_is_not_shown_with_the_reason() {
        for (before, after, reason) in [
            (FileState::of(vec![0]), text("x"), NotShown::Binary),
            (text("x"), FileState::of(vec![0xff]), NotShown::Binary),
            (FileState::TooLarge, FileState::of(vec![0]), NotShown::TooLarge),
            (FileState::NotRegular, text("x"), NotShown::NotAFile),
            (FileState::Absent, FileState::Absent, NotShown::Absent),
        ] {
            let diff = compare("/a", &before, &after);
            assert_eq!((diff.text, diff.not_shown), (None, Some(reason)));
        }
    }

    #[test]
    fn a_long_difference_ends_at_a_line() {
        let long = "line of a file\n".repeat(100_000);
        let diff = compare("/a", &FileState::Absent, &text(&long));
        let shown = diff.text.unwrap();
        assert!(diff.truncated && shown.len() <= TEXT_MAX && shown.ends_with("+line of a file\n"));
    }
}
