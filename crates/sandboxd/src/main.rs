//! Binary of sandboxd: parses the command line, limits the process's memory, and runs.

use std::{io, path::Path, process::ExitCode, time::Duration};

use fsa_sandboxd::{
    boot, callback,
    options::{Invocation, Options, USAGE},
};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if arguments
        .next()
        .is_some_and(|argument| argument == "git-credential")
    {
        return git_credential(arguments.next());
    }
    let options = match Options::parse(std::env::args_os().skip(1)) {
        Ok(Invocation::Run(options)) => options,
        Ok(Invocation::Install(path)) => {
            return match install(&path) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!(
                        "fsa-sandboxd: it could not be copied to {}: {error}",
                        path.display()
                    );
                    ExitCode::FAILURE
                }
            };
        }
        Ok(Invocation::Help) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Ok(Invocation::Version) => {
            println!("fsa-sandboxd {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Err(sentence) => {
            eprintln!("fsa-sandboxd: {sentence}");
            return ExitCode::from(2);
        }
    };
    limit_memory();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::INFO)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .without_time()
        .init();
    match start(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fsa-sandboxd: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Copies this program with its mode, atomically.
fn install(path: &Path) -> io::Result<()> {
    let part = path.with_extension("part");
    std::fs::copy("/proc/self/exe", &part)?;
    std::fs::rename(&part, path)
}

/// Runs git's credential helper. git starts it with the environment of a program in the sandbox.
#[allow(
    clippy::disallowed_methods,
    reason = "git starts this program, and its environment has the callback's URL and token"
)]
fn git_credential(operation: Option<std::ffi::OsString>) -> ExitCode {
    use fsa_model::callback::{TOKEN_VARIABLE, URL_VARIABLE};
    let variable = |name| std::env::var(name).ok();
    let result = callback::git_credential::run(
        operation.as_ref().and_then(|name| name.to_str()),
        variable(URL_VARIABLE).as_deref(),
        variable(TOKEN_VARIABLE).as_deref(),
    );
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("fsa: {sentence}");
            ExitCode::FAILURE
        }
    }
}

fn start(options: Options) -> Result<(), boot::BootError> {
    let boot = boot::document(&options)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(32)
        .thread_keep_alive(Duration::from_secs(2))
        .thread_stack_size(256 * 1024)
        .build()
        .map_err(boot::BootError::Signals)?;
    let ended = runtime.block_on(boot::run(options, boot));
    // Do not wait for threads that hang in a file system.
    runtime.shutdown_background();
    ended
}

/// Returns freed memory to the machine at once: hundreds of this process may run on it.
#[allow(unsafe_code)]
fn limit_memory() {
    // SAFETY: called while there is one thread, with parameters that mallopt(3) lists; what it
    // does not know it ignores.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 64 * 1024);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 64 * 1024);
    }
}
