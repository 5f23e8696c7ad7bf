//! Each parser of bytes from outside, and what must hold for whatever it is given. That none panics, and none
//! takes more memory than the process may have, holds for all of them.

mod agents;
mod archives;
mod machine;
mod requests;
mod settings;
mod terminal;

/// What an error says, without the numbers and names that only this input has.
fn said(error: &impl ToString) -> String {
    let text = error.to_string();
    text.chars().filter(|c| !c.is_ascii_digit()).take(60).collect()
}
