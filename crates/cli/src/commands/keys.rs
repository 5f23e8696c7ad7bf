//! `fsa keys`: the key file of a data folder. Whoever may write it may renew it; no server is asked.

use fsa_server::auth::seal::Sealer;
use nix::unistd::Uid;

use crate::{
    args::Keys,
    config,
    failure::{Failure, Outcome},
    output,
};

pub fn run(keys: Keys) -> Outcome {
    let Keys::Rotate(serve) = keys;
    let config = config::serve(serve, Uid::effective().is_root())?;
    let path = config.data_dir.join("keys/seal.key");
    Sealer::add_key(&path).map_err(|error| Failure::failed(error.to_string()))?;
    output::note(&format!(
        "{} has a new key as its last line. Start every server of this database anew: the next one seals all stored \
         secrets with it while it serves, and says in its log when that is done. Keep the older lines; back the file up.",
        path.display()
    ));
    Ok(0)
}
