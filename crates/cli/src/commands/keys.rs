//! `fsa keys`: the keys that stored secrets are encrypted with. Whoever may write a data folder's key file may add
//! one; how much is encrypted with which only a server knows, so it is asked for the rest.

use fsa_model::api::EncryptionKey;
use fsa_server::encryption::KeyRing;
use nix::unistd::Uid;
use reqwest::Method;

use crate::{
    args::Keys,
    client::{Client, encoded, sent},
    config::{self, ServeArguments},
    failure::{Failure, Outcome},
    output,
};

pub fn rotate(serve: ServeArguments) -> Outcome {
    let config = config::serve(serve, Uid::effective().is_root())?;
    let path = config.data_dir.join("keys/seal.key");
    KeyRing::add_key(&path).map_err(|error| Failure::failed(error.to_string()))?;
    output::note(&format!(
        "{} has a new key as its last line. A server that runs reads it within seconds, and seals all stored secrets \
         with it while it serves; `fsa keys list` says how far it is. Back the file up.",
        path.display()
    ));
    Ok(0)
}

pub async fn run(client: &Client, command: Keys, json: bool) -> Outcome {
    match command {
        // Needs no server.
        Keys::Rotate(serve) => return rotate(*serve),
        Keys::List => {
            let all: Vec<EncryptionKey> = client.get("/api/keys").await?;
            output::print(json, &all, |all| {
                output::table(
                    &["KEY", "SEALED WITH IT", ""],
                    all.iter().map(|key| {
                        let note = match (key.current, key.available) {
                            (true, _) => "the newest",
                            (false, true) => "",
                            (false, false) => "not in the key file: cannot be opened",
                        };
                        vec![key.id.clone(), key.values.to_string(), note.to_owned()]
                    }),
                );
            });
        }
        Keys::Forget { key } => {
            sent(client.request(Method::DELETE, &format!("/api/keys/{}", encoded(&key)))).await?;
            output::note(&format!(
                "The key {key} is gone from the key file. Backups of the database from before the last rotation need it: \
                 keep the file that was backed up with them."
            ));
        }
    }
    Ok(0)
}
