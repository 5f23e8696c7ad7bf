//! `fsa serve`.
use crate::{
    config::ServeArguments,
    failure::{Failure, Outcome},
};
pub fn run(_arguments: ServeArguments) -> Outcome {
    Err(Failure::failed("being written"))
}
