//! The suite that every driver passes: the promises of [`crate::Driver`], one story each.
