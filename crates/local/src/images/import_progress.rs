//! Progress of an archive that is imported: bytes that were read of it, then layers that are unpacked.

use std::{io, sync::Arc};

use fsa_model::condition::ImageProgress;
use parking_lot::Mutex;

/// Bytes between two reports.
const REPORT_EVERY: u64 = 4 << 20;

/// Takes each progress.
pub(super) type Report = Box<dyn Fn(ImageProgress) + Send + Sync>;

/// The progress of one import.
pub(super) struct ImportProgress {
    now: Mutex<ImageProgress>,
    report: Report,
}

impl ImportProgress {
    /// `total_bytes`: the archive's.
    pub(super) fn new(total_bytes: u64, report: Report) -> Self {
        let progress = Self {
            now: Mutex::new(ImageProgress {
                total_bytes,
                ..ImageProgress::default()
            }),
            report,
        };
        (progress.report)(*progress.now.lock());
        progress
    }

    fn read(&self, bytes: u64) {
        let mut now = self.now.lock();
        let before = now.bytes;
        now.bytes += bytes;
        if before / REPORT_EVERY != now.bytes / REPORT_EVERY {
            (self.report)(*now);
        }
    }

    /// The archive is read, and has this many layers that are not here.
    pub(super) fn layers(&self, missing: usize) {
        let mut now = self.now.lock();
        now.bytes = now.total_bytes;
        now.total_layers = u32::try_from(missing).unwrap_or(u32::MAX);
        (self.report)(*now);
    }

    /// One more layer is unpacked.
    pub(super) fn unpacked(&self) {
        let mut now = self.now.lock();
        now.unpacked_layers += 1;
        (self.report)(*now);
    }
}

/// A reader that counts.
pub(super) struct CountedRead<R> {
    pub(super) input: R,
    pub(super) progress: Option<Arc<ImportProgress>>,
}

impl<R: io::Read> io::Read for CountedRead<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        if let Some(progress) = &self.progress {
            progress.read(read as u64);
        }
        Ok(read)
    }
}
