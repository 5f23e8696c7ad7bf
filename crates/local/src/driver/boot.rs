//! Boot configuration of sandboxd, in a sealed memfd (memfd_create(2)): secrets are in no file.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Seek as _, Write as _},
    net::Ipv4Addr,
    os::fd::OwnedFd,
};

use fsa_model::{SandboxSpec, environment::path_with, sandboxd::Boot};
use rustix::fs::{MemfdFlags, SealFlags};
use secrecy::{ExposeSecret as _, SecretString};

/// The boot message of a sandbox. Variables of the spec override those of the image; a `PATH` of the spec gets the
/// image's entries that it lacks.
#[must_use]
pub fn message(spec: &SandboxSpec, image: &[(String, String)], nameservers: &[Ipv4Addr]) -> Boot {
    let mut environment: BTreeMap<String, SecretString> = image
        .iter()
        .map(|(name, value)| (name.clone(), value.clone().into()))
        .collect();
    let path_of_image = environment.get("PATH").cloned();
    environment.extend(spec.environment.clone());
    if let (Some(of_image), Some(path)) = (path_of_image, environment.get_mut("PATH")) {
        *path = path_with(path.expose_secret(), of_image.expose_secret()).into();
    }
    Boot {
        control_token: spec.control_token.clone(),
        hostname: hostname(spec),
        environment,
        start_command: spec.start_command.clone(),
        repository: spec.repository.clone(),
        // The terminal is reached through the control socket; no port is served.
        terminal_token: None,
        nameservers: nameservers.iter().map(Ipv4Addr::to_string).collect(),
    }
}

/// The project's name, which is a DNS label and what a person expects in a prompt.
#[must_use]
pub fn hostname(spec: &SandboxSpec) -> String {
    spec.project_name.as_str().to_owned()
}

/// A sealed memfd with the message, positioned at its beginning.
///
/// # Errors
/// Where the machine has no memory or descriptors left.
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
