//! Boot configuration of sandboxd, in a sealed memfd (memfd_create(2)): secrets are in no file.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Seek as _, Write as _},
    net::Ipv4Addr,
    os::fd::OwnedFd,
};

use fsa_model::{SandboxSpec, environment::over_image, sandboxd::Boot};
use rustix::fs::{MemfdFlags, SealFlags};
use secrecy::SecretString;

/// The boot message of a sandbox. Variables of the spec override those of the image; a `PATH` of the spec gets the
/// image's entries that it lacks.
#[must_use]
pub fn message(spec: &SandboxSpec, image: &[(String, String)], nameservers: &[Ipv4Addr]) -> Boot {
    let of_image: BTreeMap<String, SecretString> = image
        .iter()
        .map(|(name, value)| (name.clone(), value.clone().into()))
        .collect();
    Boot {
        control_token: spec.control_token.clone(),
        hostname: hostname(spec),
        environment: over_image(of_image, spec.environment.clone()),
        start_command: spec.start_command.clone(),
        repository: spec.repository.clone(),
        // The terminal is available through the control socket, not by a port.
        terminal_token: None,
        nameservers: nameservers.iter().map(Ipv4Addr::to_string).collect(),
    }
}

/// The project's name, which is a DNS label.
#[must_use]
pub fn hostname(spec: &SandboxSpec) -> String {
    spec.project_name.as_str().to_owned()
}

/// A sealed memfd with the message, positioned at its beginning.
///
/// # Errors
/// The machine has no memory or descriptors left.
pub fn file(boot: &Boot) -> io::Result<OwnedFd> {
    let mut file = File::from(rustix::fs::memfd_create(
        "fsa-boot",
        MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
    )?);
    file.write_all(&serde_json::to_vec(boot)?)?;
    file.rewind()?;
    rustix::fs::fcntl_add_seals(
        &file,
        SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
    )?;
    Ok(file.into())
}
