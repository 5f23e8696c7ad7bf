//! The binary: reads the command line, sets the process up to be small, and runs.

use std::{io, path::Path, process::ExitCode, time::Duration};

use fsa_sandboxd::{
    asks, boot,
    options::{Asked, Options, USAGE},
};

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    if words.next().is_some_and(|word| word == "git-credential") {
        return git_credential(words.next());
    }
    let options = match Options::parse(std::env::args_os().skip(1)) {
        Ok(Asked::Run(options)) => options,
        Ok(Asked::Install(path)) => {
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
        Ok(Asked::Help) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Ok(Asked::Version) => {
            println!("fsa-sandboxd {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Err(sentence) => {
            eprintln!("fsa-sandboxd: {sentence}");
            return ExitCode::from(2);
        }
    };
    stay_small();
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

/// Copies this program, mode and all. The copy appears whole or not at all.
fn install(path: &Path) -> io::Result<()> {
    let part = path.with_extension("part");
    std::fs::copy("/proc/self/exe", &part)?;
    std::fs::rename(&part, path)
}

/// What git runs. The environment is that of a program in the sandbox.
#[allow(
    clippy::disallowed_methods,
    reason = "here this is a program that a program of the sandbox starts, and its environment is how it is told"
)]
fn git_credential(operation: Option<std::ffi::OsString>) -> ExitCode {
    use fsa_model::callback::{TOKEN_VARIABLE, URL_VARIABLE};
    let variable = |name| std::env::var(name).ok();
    let told = asks::credential::run(
        operation.as_ref().and_then(|word| word.to_str()),
        variable(URL_VARIABLE).as_deref(),
        variable(TOKEN_VARIABLE).as_deref(),
    );
    match told {
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
    // Threads that still hang in a file system must not hold up the end.
    runtime.shutdown_background();
    ended
}

/// There may be hundreds of this process on a machine: freed memory goes back to it at once.
#[allow(unsafe_code)]
fn stay_small() {
    // SAFETY: called while there is one thread, with parameters that mallopt(3) lists; what it
    // does not know it ignores.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 64 * 1024);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 64 * 1024);
    }
}
