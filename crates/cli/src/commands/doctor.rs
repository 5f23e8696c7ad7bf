//! `fsa doctor`.
use crate::{
    config::ServeArguments,
    failure::{Failure, Outcome},
};
pub fn run(_arguments: ServeArguments, _json: bool) -> Outcome {
    Err(Failure::failed("being written"))
}
