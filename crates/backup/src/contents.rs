//! Contents of a backup: its entries in order, and the bytes of its files.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use rustic_core::{
    IndexedFullStatus,
    repofile::{Node, SnapshotFile},
};

use crate::{Entry, EntryKind, Error, Result};

/// Folders within folders. A file system allows no deeper paths than 4096 bytes.
const DEPTH_MAX: usize = 2048;

/// A backup that is read.
pub struct Contents {
    pub(crate) repository: rustic_core::Repository<IndexedFullStatus>,
    pub(crate) snapshot: SnapshotFile,
}

/// The bytes of one file of a backup.
pub struct FileContent<'a> {
    contents: &'a Contents,
    node: &'a Node,
}

impl FileContent<'_> {
    /// The number of bytes that [`Self::write_to`] writes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.node.meta.size
    }

    /// # Errors
    /// A part is missing or damaged; the writer's error.
    pub fn write_to(&self, writer: &mut dyn Write) -> Result<()> {
        let mut writer = Recorder {
            writer,
            error: None,
            written: 0,
        };
        let result = self.contents.repository.dump(self.node, &mut writer);
        if let Some(error) = writer.error.take() {
            return Err(Error::Write(error));
        }
        result?;
        if writer.written == self.size() {
            Ok(())
        } else {
            Err(Error::Damaged("a file has another size than its entry".into()))
        }
    }
}

impl Contents {
    /// Calls `visit` for every entry below a folder of the backup (the empty path for all), folders before what is in
    /// them. A path that the backup does not have has no entries.
    ///
    /// # Errors
    /// A part is missing or damaged; the first error of `visit`.
    pub fn walk<E: From<Error>>(
        &self,
        below: &Path,
        visit: &mut dyn FnMut(&Entry, &FileContent<'_>) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        // The entries of each open folder that are still to be visited, the next one last.
        let mut open = vec![self.folder(self.snapshot.tree)?];
        let mut path = PathBuf::new();
        while let Some(folder) = open.last_mut() {
            let Some(node) = folder.pop() else {
                open.pop();
                path.pop();
                continue;
            };
            let name = node.name().into_owned();
            if Path::new(&name).components().count() != 1 || Path::new(&name).file_name() != Some(&*name) {
                return Err(Error::Damaged(format!("an entry has the name {name:?}")).into());
            }
            let entry_path = path.join(&name);
            let inside = entry_path.starts_with(below);
            if inside && entry_path != below {
                let content = FileContent {
                    contents: self,
                    node: &node,
                };
                let mut entry = Entry::of_node(entry_path.clone(), &node);
                if entry.kind == EntryKind::File {
                    entry.size = content.size();
                }
                visit(&entry, &content)?;
            }
            if node.is_dir() && (inside || below.starts_with(&entry_path)) {
                if open.len() >= DEPTH_MAX {
                    return Err(Error::Damaged("its folders are too deep".into()).into());
                }
                let Some(tree) = node.subtree else {
                    return Err(Error::Damaged("a folder has no entries".into()).into());
                };
                open.push(self.folder(tree)?);
                path.push(name);
            }
        }
        Ok(())
    }

    /// The bytes of one file of at most `limit` bytes; `None` if the backup has no such file.
    ///
    /// # Errors
    /// A part is missing or damaged; the file is larger.
    pub fn read_file(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        let mut tree = self.snapshot.tree;
        let mut components = path.components().peekable();
        while let Some(component) = components.next() {
            let found = self
                .folder(tree)?
                .into_iter()
                .find(|node| *node.name() == *component.as_os_str());
            let Some(node) = found else { return Ok(None) };
            if components.peek().is_none() {
                if !node.is_file() || node.meta.size > limit {
                    return Err(Error::Damaged(format!(
                        "{} is no file of its size",
                        path.display()
                    )));
                }
                let mut bytes = Vec::new();
                let content = FileContent {
                    contents: self,
                    node: &node,
                };
                content.write_to(&mut bytes)?;
                return Ok(Some(bytes));
            }
            match node.subtree {
                Some(subtree) => tree = subtree,
                None => return Ok(None),
            }
        }
        Ok(None)
    }

    /// The entries of a folder, the last one first.
    fn folder(&self, tree: rustic_core::TreeId) -> Result<Vec<Node>> {
        let mut nodes = self.repository.get_tree(&tree)?.nodes;
        nodes.reverse();
        Ok(nodes)
    }
}

/// Keeps the writer's error, which `rustic_core` turns into one of its own.
struct Recorder<'a> {
    writer: &'a mut dyn Write,
    error: Option<io::Error>,
    written: u64,
}

impl Write for Recorder<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self.writer.write(buffer) {
            Ok(length) => {
                self.written += length as u64;
                Ok(length)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                let kind = error.kind();
                self.error = Some(error);
                Err(kind.into())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}
