//! `fsa snapshot diff`: the files that changed after a snapshot, their text, and the database.

use fsa_model::{
    database_diff::{ColumnChange, DatabaseDiff, NotCompared, TableChange},
    file_diff::{FileDiff, NotShown},
    sandboxd::FileKind,
    snapshot::{ChangeKind, FileChange, SnapshotDiff},
};

use crate::{
    client::{Client, encode},
    failure::Failure,
    output,
};

/// Files whose text is shown.
const TEXTS_MAX: usize = 100;

/// Lists the files that changed.
pub async fn files(client: &Client, path: &str, to: Option<&str>, json: bool) -> Result<(), Failure> {
    let found: SnapshotDiff = client.get(&format!("{path}{}", query(to, None))).await?;
    output::print(json, &found, diff);
    Ok(())
}

/// Shows the text of the changes.
pub async fn text(client: &Client, path: &str, to: Option<&str>, json: bool) -> Result<(), Failure> {
    let found: SnapshotDiff = client.get(&format!("{path}{}", query(to, None))).await?;
    let is_file = |change: &&FileChange| change.kind == FileKind::File;
    let changed: Vec<&FileChange> = found.files.changes.iter().filter(is_file).collect();
    let mut shown: Vec<FileDiff> = Vec::new();
    for change in changed.iter().take(TEXTS_MAX) {
        let file = change
            .encoded_path
            .clone()
            .unwrap_or_else(|| encode(&change.path));
        let diff: FileDiff = client
            .get(&format!("{path}/file{}", query(to, Some(&file))))
            .await?;
        if !json {
            show(&diff);
        }
        shown.push(diff);
    }
    if json {
        output::print_list(json, shown, |_| {});
    }
    if changed.len() > TEXTS_MAX || found.files.truncated {
        output::notice(&format!(
            "the first {} files are shown of {} that changed",
            TEXTS_MAX.min(changed.len()),
            found.files.added + found.files.changed + found.files.removed
        ));
    }
    Ok(())
}

/// Shows what changed in the database.
pub async fn database(client: &Client, path: &str, to: Option<&str>, json: bool) -> Result<(), Failure> {
    let path = format!("{path}/database{}", query(to, None));
    let found: DatabaseDiff = client.get(&path).await?;
    output::print(json, &found, |found| {
        found.database.tables.iter().for_each(show_table);
        let more = match found.database.truncated {
            true => "; the list is incomplete",
            false => "",
        };
        output::notice(&format!(
            "{} tables differ, {} are equal{more}",
            found.database.tables.len(),
            found.database.unchanged
        ));
    });
    Ok(())
}

/// `file` is percent-encoded already.
fn query(to: Option<&str>, file: Option<&str>) -> String {
    let to = to.map(|to| format!("to={}", encode(to)));
    let file = file.map(|file| format!("path={file}"));
    let parts: Vec<String> = [to, file].into_iter().flatten().collect();
    match parts.is_empty() {
        true => String::new(),
        false => format!("?{}", parts.join("&")),
    }
}

fn show(diff: &FileDiff) {
    match (&diff.text, diff.not_shown) {
        (Some(text), _) => {
            text.lines().for_each(output::line);
            if diff.truncated {
                output::notice(&format!("{}: the rest of the difference is not shown", diff.path));
            }
        }
        (None, reason) => output::line(&format!("{}: {}", diff.path, not_shown(reason))),
    }
}

const fn not_shown(reason: Option<NotShown>) -> &'static str {
    match reason {
        Some(NotShown::Binary) => "binary files differ",
        Some(NotShown::TooLarge) => "larger than 1 MiB, not compared",
        Some(NotShown::NotAFile) => "not a regular file in both states",
        Some(NotShown::Absent) | None => "no longer there",
    }
}

fn show_table(table: &TableChange) {
    let rows = match (table.rows, table.not_compared) {
        (Some(rows), _) => {
            let parts = [
                (rows.inserted, "inserted"),
                (rows.updated, "updated"),
                (rows.deleted, "deleted"),
            ];
            let parts = parts.iter().filter(|(number, _)| *number > 0);
            parts
                .map(|(number, what)| format!("{number} {what}"))
                .collect::<Vec<_>>()
                .join(", ")
        }
        (None, Some(NotCompared::TooManyRows)) => "too many rows to compare".to_owned(),
        (None, Some(NotCompared::TimeOver)) => "rows not compared: the time was over".to_owned(),
        (None, _) => "rows not compared: they cannot be read".to_owned(),
    };
    let rows = match rows.is_empty() {
        true => String::new(),
        false => format!("  {rows}"),
    };
    output::line(&format!("{} {}{rows}", sign(table.change), table.title()));
    for column in &table.columns {
        output::line(&format!("    {} {}", sign(column.change), column_text(column)));
    }
}

fn column_text(column: &ColumnChange) -> String {
    match (&column.before, &column.now) {
        (Some(before), Some(now)) => format!("{} {before} -> {now}", column.name),
        (before, now) => {
            let definition = now.as_ref().or(before.as_ref());
            format!("{} {}", column.name, definition.map_or("", String::as_str))
        }
    }
}

fn diff(found: &SnapshotDiff) {
    for change in &found.files.changes {
        output::line(&format!(
            "{} {}{}",
            sign(change.change),
            change.path,
            sizes(change)
        ));
    }
    let more = if found.files.truncated {
        "; the list is incomplete"
    } else {
        ""
    };
    output::notice(&format!(
        "{} added, {} changed, {} removed{more}",
        found.files.added, found.files.changed, found.files.removed
    ));
}

/// As `git diff --name-status` has it.
const fn sign(change: ChangeKind) -> &'static str {
    match change {
        ChangeKind::Added => "A",
        ChangeKind::Changed => "M",
        ChangeKind::Removed => "D",
    }
}

fn sizes(change: &FileChange) -> String {
    match (change.size_before, change.size) {
        (Some(before), Some(now)) if before != now => format!(" ({before} to {now} bytes)"),
        (None, Some(bytes)) | (Some(bytes), None) => format!(" ({bytes} bytes)"),
        _ => String::new(),
    }
}
