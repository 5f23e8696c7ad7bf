//! Rebuilds this crate when the bundle changes.

fn main() {
    // Cargo takes a path that is missing for one that has changed, each time, so the folder is made.
    // Where it cannot be, builds are only slower.
    let _ = std::fs::create_dir_all("../../web/dist");
    println!("cargo::rerun-if-changed=../../web/dist");
    println!("cargo::rerun-if-changed=build.rs");
}
