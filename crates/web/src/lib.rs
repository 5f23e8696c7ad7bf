//! Embedded files of the web application (`web/dist`). They are a separate crate so that a change of the page
//! recompiles nothing else, and so that a checkout in which the page was never built compiles too.

use std::borrow::Cow;

use rust_embed::RustEmbed;

#[derive(RustEmbed)]
#[folder = "../../web/dist"]
#[allow_missing = true]
struct Dist;

/// The file at this path, such as `assets/app-1a2b3c.js`, or `….js.br` for its compressed variant.
#[must_use]
pub fn file(path: &str) -> Option<Cow<'static, [u8]>> {
    Dist::get(path).map(|found| found.data)
}

/// Looks up a file of the application by its path.
pub type Files = fn(&str) -> Option<Cow<'static, [u8]>>;

/// The application, if this build has one.
#[must_use]
pub fn application() -> Option<Files> {
    file("index.html").is_some().then_some(file)
}
