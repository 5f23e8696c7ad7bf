//! Secret with sandboxd's boot document: the environment and the tokens. It is mounted into the sandbox's pod only.

use std::{collections::BTreeMap, fmt::Write as _};

use fsa_model::{SandboxSpec, sandboxd::Boot};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};

use super::{DIGEST, metadata};
use crate::settings::Settings;

/// The key in the Secret, and the file that it becomes.
pub const BOOT_FILE: &str = "boot.json";

/// The boot document.
#[must_use]
pub fn boot(spec: &SandboxSpec) -> Boot {
    Boot {
        control_token: spec.control_token.clone(),
        hostname: spec.project_name.as_str().to_owned(),
        environment: spec.environment.clone(),
        start_command: spec.start_command.clone(),
        repository: spec.repository.clone(),
        // The kubelet writes resolv.conf.
        nameservers: Vec::new(),
        terminal_token: Some(terminal_token(&spec.control_token)),
    }
}

/// The token of the terminal's own port. It is derived from the control token by a one-way hash, so it is stored
/// nowhere and does not reveal the control token.
#[must_use]
pub fn terminal_token(control_token: &SecretString) -> SecretString {
    let mut hash = Sha256::new();
    hash.update("terminal\0");
    hash.update(control_token.expose_secret());
    hash.finalize()
        .iter()
        .fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
        .into()
}

#[must_use]
pub fn secret(spec: &SandboxSpec, settings: &Settings) -> Secret {
    let mut metadata = metadata(spec.sandbox.resource.as_str().to_owned(), spec, settings);
    metadata
        .annotations
        .get_or_insert_default()
        .insert(DIGEST.into(), spec.digest());
    let document = serde_json::to_vec(&boot(spec)).expect("a boot document is a map of texts");
    Secret {
        metadata,
        type_: Some("Opaque".into()),
        data: Some(BTreeMap::from([(BOOT_FILE.into(), ByteString(document))])),
        ..Secret::default()
    }
}
