//! Settings files.

use std::fs;

use fsa_fuzz::target;
use fsa_model::environment;

use crate::error_text;

/// `.env` files: every accepted variable is valid for a process.
#[test]
fn env_files() {
    target("env-files")
        .seeds(&[
            "A=b\n",
            "export A='b c'\n# no\nB=\"${A}\\n\"\n",
            "A\n",
            "ANTHROPIC_API_KEY=k\r\n",
        ])
        .dictionary(&[
            b"export ", b"${A}", b"$A", b"\"", b"'", b"\\", b"#", b"=", b"\0", b"\n",
        ])
        .check(|bytes| {
            let mut taken = 0;
            for item in dotenvy::from_read_iter(bytes) {
                // A file is refused at its first invalid line, like on the command line.
                let Ok((name, value)) = item else {
                    return "refused".into();
                };
                match environment::check(&name, &value) {
                    Ok(()) => {
                        assert!(!name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0'));
                        taken += 1;
                    }
                    Err(error) => return error_text(&error),
                }
            }
            format!("{} taken", taken.min(4))
        });
}

/// Kubeconfig: it is refused or accepted, and no program that it names is ever run.
#[test]
fn kubeconfigs() {
    let folder = tempfile::tempdir().expect("a folder");
    let trap = folder.path().join("ran");
    let path = folder.path().join("kubeconfig");
    let base = "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters:\n- name: k\n  cluster: {server: 'https://127.0.0.1:1'}\ncontexts:\n- name: c\n  context: {cluster: k, user: u}\nusers:\n- name: u\n";
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let settings = fsa_kubernetes::settings::Settings {
        kubeconfig: Some(path.clone()),
        ..fsa_kubernetes::settings::Settings::default()
    };
    let seeds = [
        format!("{base}  user: {{token: t}}\n"),
        format!(
            "{base}  user:\n    exec:\n      apiVersion: client.authentication.k8s.io/v1\n      command: touch\n      args: ['{}']\n",
            trap.display()
        ),
        format!(
            "{base}  user:\n    auth-provider:\n      name: gcp\n      config: {{cmd-path: touch, cmd-args: '{}'}}\n",
            trap.display()
        ),
        format!("{base}  user: {{client-certificate: /dev/zero, tokenFile: /dev/zero}}\n"),
    ];
    target("kubeconfigs")
        .seeds(&seeds)
        .dictionary(&[
            b"exec:",
            b"user:",
            b"  ",
            b"\n",
            b"&a ",
            b"*a",
            b"- ",
            b"null",
            b"!!binary ",
            b"tokenFile: ",
        ])
        .check(|bytes| {
            // An endless input is tried once, as written above.
            fs::write(&path, bytes).expect("a file");
            let read = runtime.block_on(fsa_kubernetes::connection::read(
                &settings,
                &fsa_kubernetes::connection::KubeconfigPaths::default(),
            ));
            assert!(!trap.exists(), "a program was run");
            match read {
                Ok(_) => "read".into(),
                Err(error) => error_text(&error.to_string().replace(&path.display().to_string(), "")),
            }
        });
}
