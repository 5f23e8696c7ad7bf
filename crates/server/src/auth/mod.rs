//! Who somebody is and what they may see.

pub mod seal;
