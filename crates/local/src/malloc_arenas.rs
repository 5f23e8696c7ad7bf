//! glibc malloc arenas: a limit on how much freed memory the allocator keeps.

/// Blocks of this size and above go back to the machine as soon as they are freed (`M_MMAP_THRESHOLD` of mallopt(3)).
/// By default glibc uses the size of the largest block ever freed, up to 32 MiB, and its arenas keep many times
/// that: the 19 MiB of each password hash were three hundred after a few dozen.
const LARGE: i32 = 1024 * 1024;

/// Limits this process to `most` arenas (`M_ARENA_MAX`; the default is eight per processor), because threads that come
/// and go leave holes in each arena that other threads cannot use; and makes it return large blocks. Must be called
/// before there is a second thread.
pub fn limit_to(most: usize) {
    let most = i32::try_from(most.max(1)).unwrap_or(i32::MAX);
    // SAFETY: mallopt sets numbers.
    #[allow(unsafe_code)]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, most);
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}
