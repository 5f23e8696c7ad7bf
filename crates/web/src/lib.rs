//! The web application's files, compiled into whoever links this. It is a crate of its own so that
//! a change of the page compiles nothing but this, and so that a checkout in which the page was
//! never built compiles too.

use std::borrow::Cow;

use rust_embed::RustEmbed;

#[derive(RustEmbed)]
#[folder = "../../web/dist"]
#[allow_missing = true]
struct Dist;

/// One file by its path, such as `assets/app-1a2b3c.js`, or `….js.br` for the compressed one.
#[must_use]
pub fn file(path: &str) -> Option<Cow<'static, [u8]>> {
    Dist::get(path).map(|found| found.data)
}

/// How a file of the application is found by its path.
pub type Files = fn(&str) -> Option<Cow<'static, [u8]>>;

/// The application, where this build has one.
#[must_use]
pub fn application() -> Option<Files> {
    file("index.html").is_some().then_some(file)
}
