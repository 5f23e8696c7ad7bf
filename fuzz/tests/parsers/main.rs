//! Fuzz targets: each parser of untrusted bytes, with a property that must hold for every input. For all of them: no
//! panic, and no more memory than the process's limit.

mod agents;
mod archives;
mod machine;
mod requests;
mod settings;
mod terminal;

/// Text of an error, without the numbers and names that are specific to the input.
fn error_text(error: &impl ToString) -> String {
    let text = error.to_string();
    text.chars().filter(|c| !c.is_ascii_digit()).take(60).collect()
}
