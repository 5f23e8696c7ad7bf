//! The hidden commands with which `fsa serve` starts its other processes.

use crate::{
    args::Internal,
    failure::{Failure, Outcome},
};

pub fn runner(_internal: Internal) -> Outcome {
    Err(Failure::usage("`fsa runner` is started by `fsa serve`"))
}

pub fn gate(_internal: Internal) -> Outcome {
    Err(Failure::usage("`fsa gate` is started by `fsa serve`"))
}
