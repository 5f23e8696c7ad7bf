//! Compression detection by a stream's first bytes.
//!
//! Media types are often wrong (plain tars labeled gzip, zstd from tools that have one label), and the content is
//! verified by its digest, so the first bytes decide.

use std::io::{self, BufRead, BufReader, Read};

/// At most 128 MiB of window, which is also what containerd allows.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Bytes of the decompressor's output buffer.
const BUFFER: usize = 128 << 10;

/// `input`, decompressed if it is gzip or zstd.
///
/// # Errors
/// The input's error.
pub fn reader<'a, R: BufRead + Send + 'a>(mut input: R) -> io::Result<Box<dyn Read + Send + 'a>> {
    let head = input.fill_buf()?;
    Ok(if head.starts_with(&[0x1f, 0x8b]) {
        Box::new(BufReader::with_capacity(
            BUFFER,
            flate2::bufread::MultiGzDecoder::new(input),
        ))
    } else if is_zstd(head) {
        let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
        decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
        Box::new(decoder)
    } else {
        Box::new(input)
    })
}

fn is_zstd(head: &[u8]) -> bool {
    head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd])
        // A skippable frame, which some tools write first (zstd:chunked).
        || matches!(head, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}
