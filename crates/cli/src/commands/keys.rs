//! `fsa keys`: the keys that stored secrets are encrypted with. `rotate` writes the key file of a data folder; the other
//! commands send requests to a server, whose database records which key encrypts each secret.

use fsa_model::api::{EncryptionKey, Page};
use fsa_server::encryption::KeyRing;
use nix::unistd::Uid;
use reqwest::Method;

use crate::{
    args::ServerKeys,
    client::{Client, checked, encode},
    config::{self, ServeArguments},
    failure::{Failure, Outcome},
    output,
};

pub fn rotate(serve: ServeArguments) -> Outcome {
    let config = config::serve(serve, Uid::effective().is_root())?;
    let path = config.data_dir.join("keys/seal.key");
    KeyRing::add_key(&path).map_err(|error| Failure::failed(error.to_string()))?;
    output::notice(&format!(
        "{} has a new key as its last line. A running server reads it within seconds and re-encrypts all stored secrets \
         with it; `fsa keys list` shows the progress. Back the file up.",
        path.display()
    ));
    Ok(0)
}

pub async fn run(client: &Client, command: ServerKeys, json: bool) -> Outcome {
    match command {
        ServerKeys::List => {
            let keys: Page<EncryptionKey> = client.get("/api/keys").await?;
            output::print_list(json, keys.items, |all| {
                output::table(
                    &["KEY", "SECRETS", ""],
                    all.iter().map(|key| {
                        let note = match (key.current, key.available) {
                            (true, _) => "the newest",
                            (false, true) => "",
                            (false, false) => "not in the key file: cannot be decrypted",
                        };
                        vec![key.id.clone(), key.values.to_string(), note.to_owned()]
                    }),
                );
            });
        }
        ServerKeys::Forget { key } => {
            checked(client.request(Method::DELETE, &format!("/api/keys/{}", encode(&key)))).await?;
            output::notice(&format!(
                "The key {key} is removed from the key file. Database backups from before the last rotation need it: \
                 keep the key file that was backed up with them."
            ));
        }
    }
    Ok(0)
}
