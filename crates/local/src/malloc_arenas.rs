//! What glibc's allocator keeps for this process of the memory that it has freed.

/// Blocks of this size and above go back to the machine as soon as they are freed (`M_MMAP_THRESHOLD` of mallopt(3)).
/// Where nobody says so, glibc takes the largest that was ever freed, up to 32 MiB, and its pools keep many times
/// that: the 19 MiB of each password's hash were three hundred after a few dozen.
const LARGE: i32 = 1024 * 1024;

/// Lets this process have at most so many pools (`M_ARENA_MAX`; the default is eight for each processor), since threads
/// that come and go leave holes in each of them that the others cannot use; and keep no large blocks. To be called
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
