//! Storage of a repository: named objects, in a few folders.

use std::io;

use bytes::Bytes;

/// Objects by their path, such as `data/0a/0a1b…` or `config`. All paths are made by this crate, from hexadecimal ids.
pub trait Storage: Send + Sync + 'static {
    /// Where it is, for messages; without secrets.
    fn location(&self) -> String;

    /// Prepares it for a new repository.
    ///
    /// # Errors
    /// The storage's.
    fn create(&self) -> io::Result<()>;

    /// Names (without folders) and sizes of the objects below a folder, at any depth. None where there is no folder.
    ///
    /// # Errors
    /// The storage's.
    fn list(&self, folder: &str) -> io::Result<Vec<(String, u64)>>;

    /// The size of an object, if there is one.
    ///
    /// # Errors
    /// The storage's.
    fn size(&self, path: &str) -> io::Result<Option<u64>>;

    /// # Errors
    /// `NotFound`; the storage's.
    fn read(&self, path: &str) -> io::Result<Bytes>;

    /// # Errors
    /// `NotFound`, `UnexpectedEof`; the storage's.
    fn read_range(&self, path: &str, offset: u64, length: usize) -> io::Result<Bytes>;

    /// Writes an object: as a whole or not at all, also in a crash.
    ///
    /// # Errors
    /// The storage's.
    fn write(&self, path: &str, content: &[Bytes]) -> io::Result<()>;

    /// Removes an object. Idempotent.
    ///
    /// # Errors
    /// The storage's.
    fn remove(&self, path: &str) -> io::Result<()>;
}
