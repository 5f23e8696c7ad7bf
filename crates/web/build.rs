//! Rebuilds this crate when the bundle changes.

fn main() {
    // Cargo treats a missing path as changed in each build, so the folder is created.
    // If that fails, builds are only slower.
    let _ = std::fs::create_dir_all("../../web/dist");
    println!("cargo::rerun-if-changed=../../web/dist");
    println!("cargo::rerun-if-changed=build.rs");
}
