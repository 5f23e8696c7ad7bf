//! `fsa doctor` tests, on a machine that has everything and on ones that lack something: a separate mount
//! namespace hides a program or a file system from it only.

use std::process::Stdio;

use fsa_tests::exported;

/// The record of the template `web` in a data folder, as a server with its image leaves it.
const STORED_WEB: &str = "mkdir -p $FSA_DATA_DIR/images/names; \
                          touch $FSA_DATA_DIR/images/names/$(printf web | sha256sum | cut -d' ' -f1).json;";

/// Exit code and standard output of `fsa doctor`, after `without` in its own mount namespace.
#[allow(clippy::disallowed_methods, reason = "the subject is a program")]
fn doctor(without: &str) -> (i32, String) {
    let folder = tempfile::tempdir_in("/tmp").expect("a folder");
    let script = format!("{without} exec timeout 300 \"$FSA_BIN\" doctor --listen 127.0.0.1:0");
    let output = std::process::Command::new("unshare")
        .args(["--mount", "sh", "-ec", &script])
        .env("FSA_BIN", exported("FSA_BIN"))
        .env("FSA_SANDBOXD", exported("FSA_SANDBOXD"))
        .env("FSA_DATA_DIR", folder.path().join("data"))
        .env("SMALL", folder.path())
        .env_remove("FSA_WEB_IMAGE")
        .stdin(Stdio::null())
        .output()
        .expect("unshare runs");
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "",
        "nothing is logged beside the checks"
    );
    (
        output.status.code().unwrap_or(-1),
        String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}

#[test]
fn a_machine_that_has_everything_passes_all_checks() {
    let (code, output) = doctor("");
    assert_eq!(code, 0, "{output}");
    for point in [
        "kernel",
        "disk",
        "runtime",
        "limits",
        "network",
        "PostgreSQL",
        "kubernetes",
    ] {
        assert!(
            output.lines().any(|line| line.starts_with(&format!("✓ {point}"))),
            "{point}: {output}"
        );
    }
    assert!(
        output.contains("Projects can be created on this machine."),
        "{output}"
    );
}

#[test]
fn a_missing_requirement_is_reported_with_its_fix() {
    for (without, code, text) in [
        (
            "mount --bind /dev/null $(command -v nft);",
            1,
            "apt-get install nftables",
        ),
        (
            "mount --bind /dev/null $(command -v runc);",
            1,
            "the OCI runtime runc could not be started",
        ),
        (
            "mount -t tmpfs none /usr/lib/postgresql;",
            1,
            "apt install postgresql",
        ),
        ("FSA_SANDBOXD=/nowhere;", 1, "sandboxd"),
        (
            "FSA_WEB_IMAGE=/nowhere.oci.tar; export FSA_WEB_IMAGE;",
            1,
            "make image",
        ),
        (
            "mount -t tmpfs -o size=20m none $SMALL;",
            1,
            "free some space, or choose another --data-dir",
        ),
        ("", 0, "! template web"),
        // A server with another configuration has it.
        (STORED_WEB, 0, "✓ template web"),
        // Sandboxes run without limits, so this is a warning alone.
        (
            "umount -l /sys/fs/cgroup;",
            0,
            "no limit on memory, processors, processes can be enforced",
        ),
    ] {
        let (status, output) = doctor(without);
        assert!(output.contains(text), "{without}\n{output}");
        assert_eq!(status, code, "{without}\n{output}");
    }
}
