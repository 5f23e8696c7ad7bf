//! Each parser of bytes from outside, and what must hold for whatever it is given. That none panics, and none
//! takes more memory than the process may have, holds for all of them.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use fsa_fuzz::fuzz;
use fsa_local::{
    gate::startup::{self, Opening},
    images::{
        LayerBlob,
        digest::Digest,
        manifest::{self, Document},
    },
    protocol,
    runner::unpack::{Layers, Limits, Rules},
};
use fsa_model::{environment, task::Agent, tty};
use fsa_sandboxd::{
    files::tar_in,
    terminal::{scrollback::Scrollback, sequence::Parser},
    tunnel,
};
use fsa_server::{
    agents::meter::Meter,
    auth::seal::{Place as Sealed, Sealer},
    git::Place,
    store::tasks::Heard,
    tasks::adapter,
};

fn texts(all: &[&str]) -> Vec<Vec<u8>> {
    all.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// What an error says, without the numbers and names that only this input has.
fn said(error: &impl ToString) -> String {
    let text = error.to_string();
    text.chars().filter(|c| !c.is_ascii_digit()).take(60).collect()
}

/// A message of a terminal's viewer: what is read of a size can be a size, and input stays what it was.
#[test]
fn terminal_messages() {
    let seeds = texts(&[
        r#"{"AuthToken":"t","columns":80,"rows":24}"#,
        "0ls -l\r",
        r#"1{"columns":120,"rows":40}"#,
        "2",
        "3",
    ]);
    let words: &[&[u8]] = &[
        b"\"columns\":",
        b"\"rows\":",
        b"\"AuthToken\":",
        b"{",
        b"}",
        b"1",
        b"0",
    ];
    fuzz("terminal-messages", &seeds, words, |bytes| {
        match tty::parse(bytes) {
            Ok(tty::ClientMessage::Input(input)) => {
                assert_eq!(tty::input(input), bytes);
                "input".into()
            }
            Ok(tty::ClientMessage::Resize(size)) => {
                assert!((1..=1000).contains(&size.columns) && (1..=1000).contains(&size.rows));
                assert_eq!(
                    tty::parse(&tty::resize(size)),
                    Ok(tty::ClientMessage::Resize(size))
                );
                "resize".into()
            }
            Ok(tty::ClientMessage::Hello { token, size }) => {
                format!("hello {} {}", token.is_empty(), size.is_some())
            }
            Ok(other) => format!("{other:?}"),
            Err(error) => said(&error),
        }
    });
}

/// What programs print: the same in whatever pieces it comes, and never more than is kept.
#[test]
fn terminal_output() {
    let seeds = texts(&[
        "plain\r\n",
        "\x1b[31mred\x1b[0m",
        "\x1b]0;title\x07",
        "\x1bP1$q\x1b\\",
        "\x1b[?1049h\x1b[6n",
        "\u{9b}1m\u{1f600}",
    ]);
    let words: &[&[u8]] = &[
        b"\x1b",
        b"\x1b[",
        b"\x1b]",
        b"\x07",
        b"\x1b\\",
        b"?25h",
        b"\x9b",
        b"\xf0\x9f",
    ];
    fuzz("terminal-output", &seeds, words, |bytes| {
        let (mut whole, mut pieces) = (Scrollback::default(), Scrollback::default());
        whole.push(bytes);
        for piece in bytes.chunks(7) {
            pieces.push(piece);
        }
        assert_eq!(whole.replay(), pieces.replay());
        assert_eq!(whole.end(), bytes.len() as u64);
        let kept = whole.end() - whole.start();
        assert!(kept <= 256 * 1024, "{kept}");
        let (mut parser, mut kinds) = (Parser::default(), Vec::new());
        parser.feed(bytes, |piece| {
            let name = format!("{piece:?}");
            kinds.push(name.chars().take(6).collect::<String>());
        });
        kinds.dedup();
        kinds.truncate(12);
        format!("{kinds:?} {}", parser.at_rest())
    });
}

/// Where a tunnel leads: to the loopback, or nowhere.
#[test]
fn connect_targets() {
    let seeds = texts(&[
        "127.0.0.1:3000",
        "localhost:80",
        "[::1]:5173",
        "169.254.169.254:80",
        "a@localhost:1",
    ]);
    let words: &[&[u8]] = &[b"127.0.0.1", b"localhost", b"[::1]", b":", b"@", b"%", b"0x7f.1"];
    fuzz("connect-targets", &seeds, words, |bytes| {
        // As the server's HTTP library reads it.
        let Ok(uri) = http::Uri::try_from(bytes) else {
            return "no address".into();
        };
        let Some((host, port)) = uri
            .authority()
            .and_then(|authority| Some((authority.host(), authority.port_u16()?)))
        else {
            return "no host or port".into();
        };
        match tunnel::addresses(host, port) {
            Ok(found) => {
                assert!(!found.is_empty());
                assert!(
                    found
                        .iter()
                        .all(|address| address.ip().is_loopback() && address.port() == port)
                );
                format!("{}", found[0].ip())
            }
            Err(refusal) => refusal.status.to_string(),
        }
    });
}

/// What the runner is asked: it is written again as it was read, and a start that is let through names nothing
/// that could be a path.
#[test]
fn runner_requests() {
    let sandbox = r#"{"id":"018f3c3e-7a10-7cc0-8000-000000000001","project":"018f3c3e-7a10-7cc0-8000-000000000002","resource":"todo-agentruntime-2k3b4c"}"#;
    let resources = r#"{"cpuRequestMillis":20,"cpuLimitMillis":2000,"memoryRequestMib":25,"memoryLimitMib":2048,"pidsLimit":2048}"#;
    let seeds = texts(&[
        r#"{"op":"hello","version":1}"#,
        r#"{"op":"inventory"}"#,
        &format!(r#"{{"op":"observe","sandbox":{sandbox}}}"#),
        &format!(r#"{{"op":"stop","sandbox":{sandbox},"grace_millis":10}}"#),
        &format!(
            r#"{{"op":"startContainer","sandbox":{sandbox},"root":"host","resources":{resources},"digest":"00ff","hostname":"todo","gate":true}}"#
        ),
    ]);
    let words: &[&[u8]] = &[
        b"\"op\":",
        b"\"../../etc\"",
        b"null",
        b"[]",
        b"{}",
        b"\"layers\"",
        b"\\u0000",
    ];
    fuzz("runner-requests", &seeds, words, |bytes| {
        let request = match serde_json::from_slice::<protocol::Request>(bytes) {
            Ok(request) => request,
            Err(error) => return said(&error),
        };
        let again = serde_json::to_vec(&request).expect("it is written");
        assert_eq!(
            serde_json::from_slice::<protocol::Request>(&again).ok().as_ref(),
            Some(&request)
        );
        if let Some(resource) = protocol::subject(&request) {
            assert!(!resource.as_str().contains(['/', '.', '\0']), "{resource}");
        }
        if let protocol::Request::StartContainer(start) = &request
            && protocol::check(start).is_ok()
        {
            assert!(!start.hostname.contains(['/', '.', '\0']) && !start.digest.contains(['/', '.']));
            return "a start".into();
        }
        format!("{request:?}").chars().take(12).collect()
    });
}

/// The first packet of a database's client: who is let in is the sandbox's own role, in its own database.
#[test]
fn database_start_up() {
    let packet = |parameters: &[&str]| {
        let mut bytes = 196_608_u32.to_be_bytes().to_vec();
        for text in parameters {
            bytes.extend_from_slice(text.as_bytes());
            bytes.push(0);
        }
        bytes.push(0);
        bytes
    };
    let seeds = vec![
        packet(&["user", "p_one", "database", "p_one"]),
        packet(&["user", "p_one"]),
        packet(&["user", "postgres", "database", "p_one", "replication", "true"]),
        80_877_103_u32.to_be_bytes().to_vec(),
        [80_877_102_u32.to_be_bytes().to_vec(), vec![0; 12]].concat(),
    ];
    let words: &[&[u8]] = &[
        b"user\0",
        b"database\0",
        b"p_one\0",
        b"postgres\0",
        b"replication\0",
        b"options\0",
        b"\0\0",
    ];
    fuzz("database-start-up", &seeds, words, |bytes| {
        match startup::parse(bytes) {
            Ok(Opening::Startup(found)) => match found.admit("p_one") {
                Ok(packet) => {
                    // Read as PostgreSQL reads it.
                    let Ok(Opening::Startup(passed)) = startup::parse(&packet[4..]) else {
                        panic!("what is passed on is a start-up packet");
                    };
                    assert!(passed.admit("p_one").is_ok());
                    assert!(passed.admit("postgres").is_err());
                    "let in".into()
                }
                Err(_) => "kept out".into(),
            },
            Ok(other) => format!("{other:?}").chars().take(6).collect(),
            Err(_) => "broken".into(),
        }
    });
}

/// A tar with one entry, as an archive that is up to something has it.
fn entry(kind: tar::EntryType, path: &str, link: &str, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o755);
    header.set_size(content.len() as u64);
    // As bytes: the library would refuse the paths that matter here.
    for (field, text) in [(0, path), (157, link)] {
        let bytes = &text.as_bytes()[..text.len().min(100)];
        header.as_mut_bytes()[field..field + bytes.len()].copy_from_slice(bytes);
    }
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn archives() -> Vec<Vec<u8>> {
    use tar::EntryType as Kind;
    let file = |path| entry(Kind::Regular, path, "", b"hello");
    [
        vec![file("src/main.rs"), entry(Kind::Directory, "src/", "", b"")],
        vec![file("../outside/x"), file("/etc/x")],
        vec![entry(Kind::Symlink, "way", "../outside", b""), file("way/x")],
        vec![entry(Kind::Symlink, "way", "/", b""), file("way/tmp/x")],
        vec![entry(Kind::Link, "same", "../outside/kept", b""), file("same")],
        vec![entry(Kind::Link, "same", "src/main.rs", b"")],
        vec![
            file(".wh.gone"),
            file(".wh..wh..opq"),
            entry(Kind::Char, "dev", "", b""),
        ],
        vec![
            entry(
                Kind::GNULongName,
                "././@LongLink",
                "",
                b"a/very/long/../../../name\0",
            ),
            file("x"),
        ],
        vec![
            entry(Kind::XHeader, "pax", "", b"26 path=../../outside/pax\n"),
            file("x"),
        ],
    ]
    .into_iter()
    .map(|parts| [parts.concat(), vec![0; 1024]].concat())
    .collect()
}

/// Checksums are put right after a change, because nothing gets further with a wrong one.
fn with_checksums(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for block in bytes.chunks_exact_mut(512) {
        if &block[257..262] == b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
    bytes
}

/// A folder with something beside it that an archive would like to reach.
struct Beside {
    folder: tempfile::TempDir,
}

impl Beside {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let outside = folder.path().join("outside");
        fs::create_dir_all(outside.join("folder")).expect("a folder");
        fs::write(outside.join("kept"), "kept").expect("a file");
        fs::create_dir(folder.path().join("root")).expect("a folder");
        Self { folder }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// Nothing has come, gone or changed.
    fn is_untouched(&self) {
        let outside = self.folder.path().join("outside");
        let mut names: Vec<_> = fs::read_dir(&outside)
            .expect("it is there")
            .flatten()
            .map(|entry| entry.file_name().into_string().expect("a name"))
            .collect();
        names.sort();
        assert_eq!(names, ["folder", "kept"]);
        assert_eq!(
            fs::read_to_string(outside.join("kept")).expect("it is there"),
            "kept"
        );
        assert_eq!(
            fs::read_dir(outside.join("folder")).expect("it is there").count(),
            0
        );
    }
}

/// An image's layer: whatever the archive says, nothing is written outside of its folder.
#[test]
fn layers() {
    let beside = Beside::new();
    let data = beside.root();
    fs::create_dir_all(data.join("images/blobs/sha256")).expect("a folder");
    symlink("../outside", beside.folder.path().join("link")).expect("a link");
    let limits = Limits {
        entries: 2000,
        bytes: 1 << 20,
        keep_free: 0,
    };
    let rules = Rules {
        user_xattrs: true,
        keep_owners: false,
    };
    let layers = Layers::open(&data, rules, limits).expect("a folder for layers");
    let words: &[&[u8]] = &[
        b"../",
        b"/",
        b"outside",
        b"kept",
        b".wh.",
        b"ustar\0",
        b"\0\0\0\0",
    ];
    fuzz("layers", &archives(), words, |bytes| {
        let bytes = with_checksums(bytes);
        let blob = Digest::of(&bytes);
        let file = data.join("images/blobs/sha256").join(blob.hex());
        fs::write(&file, &bytes).expect("a blob");
        let layer = LayerBlob {
            diff_id: blob.into(),
            blob,
        };
        let result = layers.unpack(&layer);
        let _ = layers.remove(&layer.diff_id);
        fs::remove_file(&file).expect("a blob");
        beside.is_untouched();
        match result {
            Ok(size) => {
                assert!(size.bytes <= 1 << 20 && size.entries <= 2000);
                format!("{} entries", size.entries.min(5))
            }
            Err(error) => said(&error),
        }
    });
}

/// An archive that is put into a sandbox: the same, also where links lead out of the folder already.
#[test]
fn uploaded_archives() {
    let words: &[&[u8]] = &[b"../", b"/", b"outside", b"kept", b"way", b"ustar\0", b"\0\0\0\0"];
    let beside = Beside::new();
    let root = beside.root();
    fuzz("uploaded-archives", &archives(), words, |bytes| {
        fs::remove_dir_all(&root).expect("the folder goes");
        fs::create_dir(&root).expect("a folder");
        symlink("../outside", root.join("old-way")).expect("a link");
        let bytes = with_checksums(bytes);
        let result = tar_in::unpack(&root, &bytes[..]);
        beside.is_untouched();
        assert!(within(&root) <= bytes.len() as u64 * 2 + 4096);
        result.map_or_else(|error| said(&error), |()| "unpacked".into())
    });
}

/// Bytes of the files below `folder`.
fn within(folder: &Path) -> u64 {
    let mut bytes = 0;
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let metadata = entry.metadata().expect("what is there can be looked at");
        bytes += if metadata.is_dir() {
            within(&entry.path())
        } else {
            metadata.len()
        };
    }
    bytes
}

/// Manifests, indexes and configurations of images: what is planned stays within the limits.
#[test]
fn manifests() {
    let digest = Digest::of(b"x");
    let seeds = texts(&[
        &format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{digest}","size":7}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{digest}","size":9}}]}}"#
        ),
        &format!(
            r#"{{"schemaVersion":2,"manifests":[{{"digest":"{digest}","size":1,"platform":{{"os":"linux","architecture":"amd64"}},"annotations":{{"org.opencontainers.image.ref.name":"a"}}}}]}}"#
        ),
        &format!(
            r#"{{"os":"linux","architecture":"amd64","rootfs":{{"type":"layers","diff_ids":["{digest}"]}},"config":{{"Env":["A=b"],"User":"1","WorkingDir":"/"}}}}"#
        ),
        r#"{"schemaVersion":1}"#,
    ]);
    let words: &[&[u8]] = &[
        b"null",
        b"[]",
        b"{}",
        b"\"layers\":",
        b"\"manifests\":",
        b"\"sha256:",
        b"\"Env\":",
        b",",
    ];
    fuzz("manifests", &seeds, words, |bytes| {
        let config = manifest::parse_config(bytes);
        let ids = config.as_ref().map_or(&[][..], |(ids, _)| ids);
        let plan = match manifest::parse(bytes) {
            Ok(Document::Index(index)) => match manifest::choose(&index, Some("a")) {
                Ok(chosen) => {
                    assert!(index.contains(chosen));
                    "chosen".into()
                }
                Err(problem) => said(&problem),
            },
            Ok(Document::Manifest(found)) => match manifest::layers(&found, ids) {
                Ok(layers) => {
                    assert!(layers.len() <= manifest::LAYERS_MAX);
                    format!("{} layers", layers.len().min(3))
                }
                Err(problem) => said(&problem),
            },
            Err(problem) => said(&problem),
        };
        format!("{plan} {}", config.is_ok())
    });
}

/// `.env` files: what is taken can be a variable of a process.
#[test]
fn env_files() {
    let seeds = texts(&[
        "A=b\n",
        "export A='b c'\n# no\nB=\"${A}\\n\"\n",
        "A\n",
        "ANTHROPIC_API_KEY=k\r\n",
    ]);
    let words: &[&[u8]] = &[
        b"export ", b"${A}", b"$A", b"\"", b"'", b"\\", b"#", b"=", b"\0", b"\n",
    ];
    fuzz("env-files", &seeds, words, |bytes| {
        let mut taken = 0;
        for item in dotenvy::from_read_iter(bytes) {
            // A file is refused at its first bad line, as the command line does.
            let Ok((name, value)) = item else {
                return "refused".into();
            };
            match environment::check(&name, &value) {
                Ok(()) => {
                    assert!(!name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0'));
                    taken += 1;
                }
                Err(error) => return said(&error),
            }
        }
        format!("{} taken", taken.min(4))
    });
}

/// A kubeconfig: it is refused or read, and no program that it names is ever run.
#[test]
fn kubeconfigs() {
    let folder = tempfile::tempdir().expect("a folder");
    let trap = folder.path().join("ran");
    let path = folder.path().join("kubeconfig");
    let base = "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters:\n- name: k\n  cluster: {server: 'https://127.0.0.1:1'}\ncontexts:\n- name: c\n  context: {cluster: k, user: u}\nusers:\n- name: u\n";
    let seeds = texts(&[
        &format!("{base}  user: {{token: t}}\n"),
        &format!(
            "{base}  user:\n    exec:\n      apiVersion: client.authentication.k8s.io/v1\n      command: touch\n      args: ['{}']\n",
            trap.display()
        ),
        &format!(
            "{base}  user:\n    auth-provider:\n      name: gcp\n      config: {{cmd-path: touch, cmd-args: '{}'}}\n",
            trap.display()
        ),
        &format!("{base}  user: {{client-certificate: /dev/zero, tokenFile: /dev/zero}}\n"),
    ]);
    let words: &[&[u8]] = &[
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
    ];
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let settings = fsa_kubernetes::settings::Settings {
        kubeconfig: Some(path.clone()),
        ..fsa_kubernetes::settings::Settings::default()
    };
    fuzz("kubeconfigs", &seeds, words, |bytes| {
        // What is endless is tried once, as it is written above.
        fs::write(&path, bytes).expect("a file");
        let read = runtime.block_on(fsa_kubernetes::connection::read(
            &settings,
            &fsa_kubernetes::connection::Places::default(),
        ));
        assert!(!trap.exists(), "a program was run");
        match read {
            Ok(_) => "read".into(),
            Err(error) => said(&error.to_string().replace(&path.display().to_string(), "")),
        }
    });
}

/// What agents print: each line becomes steps, and what is kept of it stays small.
#[test]
fn agent_lines() {
    let seeds = texts(&[
        r#"{"type":"system","subtype":"init","session_id":"s","model":"m"}"#,
        r#"{"type":"assistant","message":{"content":[{"type":"text","text":"hi"},{"type":"tool_use","id":"1","name":"Bash","input":{"command":"ls"}}]}}"#,
        r#"{"type":"user","message":{"content":[{"type":"tool_result","tool_use_id":"1","content":"ok","is_error":false}]}}"#,
        r#"{"type":"result","subtype":"success","result":"done","total_cost_usd":0.1,"is_error":false}"#,
        r#"{"type":"thread.started","thread_id":"t"}"#,
        r#"{"type":"item.completed","item":{"type":"command_execution","command":"ls","exit_code":0}}"#,
        "plain words",
    ]);
    let words: &[&[u8]] = &[
        b"null",
        b"[]",
        b"{}",
        b"\"type\":",
        b"\"message\":",
        b"\"content\":",
        b"-1",
        b"1e308",
        b"[[[[",
    ];
    fuzz("agent-lines", &seeds, words, |bytes| {
        let line = String::from_utf8_lossy(bytes);
        let mut outcome = String::new();
        for agent in [Agent::Claude, Agent::Codex, Agent::Gemini] {
            let mut heard = Heard::default();
            adapter::line(agent, &line, &mut heard);
            assert!(heard.cost.is_none_or(|cost| cost.0 >= 0), "{:?}", heard.cost);
            for (kind, data) in &heard.steps {
                outcome.push_str(&format!("{kind:?} "));
                // Twice what was said at most: it is written as JSON, in which some bytes take six.
                assert!(data.to_string().len() <= 6 * line.len() + 1024);
            }
            outcome.push_str(&format!("{} {}|", heard.result.is_some(), heard.failed));
        }
        outcome
    });
}

/// A model's answer, which is counted as it passes: the same in whatever pieces it comes.
#[test]
fn model_answers() {
    let seeds = texts(&[
        "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"m\",\"usage\":{\"input_tokens\":10,\"output_tokens\":1}}}\n\nevent: message_delta\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":5}}\n\n",
        "data: {\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4,\"prompt_tokens_details\":{\"cached_tokens\":2}},\"model\":\"m\"}\n\ndata: [DONE]\n\n",
        "data: {\"usageMetadata\":{\"promptTokenCount\":3,\"candidatesTokenCount\":4,\"thoughtsTokenCount\":1}}\n\n",
    ]);
    let words: &[&[u8]] = &[
        b"data:",
        b"\n",
        b"\"usage\":",
        b"\"usageMetadata\":",
        b"18446744073709551615",
        b"-1",
        b"null",
        b"{",
    ];
    fuzz("model-answers", &seeds, words, |bytes| {
        use fsa_model::agent::Provider;
        let mut headers = http::HeaderMap::new();
        headers.insert(
            "content-type",
            http::HeaderValue::from_static("text/event-stream"),
        );
        let mut outcome = String::new();
        for provider in [Provider::Anthropic, Provider::Openai, Provider::Gemini] {
            let (mut whole, mut pieces) = (Meter::new(provider, &headers), Meter::new(provider, &headers));
            whole.feed(bytes);
            for piece in bytes.chunks(5) {
                pieces.feed(piece);
            }
            let counted = whole.finish();
            assert_eq!(counted, pieces.finish());
            outcome.push_str(&format!(
                "{} {} {}|",
                counted.input > 0,
                counted.cache_read > 0,
                counted.model.is_some()
            ));
        }
        outcome
    });
}

/// What git asks: a place has the parts that were said, on lines of their own, and no more than that.
#[test]
fn git_questions() {
    let seeds = texts(&[
        "protocol=https\nhost=git.example\npath=team/shop.git\n\n",
        "protocol=https\nhost=a\n",
        "url=https://a/b\n",
    ]);
    let words: &[&[u8]] = &[
        b"protocol=",
        b"host=",
        b"path=",
        b"https",
        b"ssh",
        b"\n",
        b"\r",
        b"\0",
        b"..",
        b"@",
        b"/",
    ];
    fuzz("git-questions", &seeds, words, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        match Place::of_question(&text) {
            Some(place) => {
                let known = format!("{place:?}");
                assert!(!known.contains("\\n"), "{known}");
                "a place".into()
            }
            None => "none".into(),
        }
    });
}

/// Sealed tokens (hand-offs, passes) that somebody changed: only the very bytes open, and only in their place.
#[test]
fn sealed_tokens() {
    let sealer = Sealer::new(&[[7; 32]]);
    let place = |row| Sealed {
        table: "gateway",
        column: "pass",
        row,
    };
    let good = sealer.seal(place("a.localhost"), &"user".to_owned().into());
    let seeds = vec![good.clone(), good[..20].to_vec(), vec![1; 60], Vec::new()];
    fuzz("sealed-tokens", &seeds, &[], |bytes| {
        assert!(sealer.unseal(place("b.localhost"), bytes).is_err());
        let opened = sealer.unseal(place("a.localhost"), bytes);
        assert_eq!(opened.is_ok(), bytes == good);
        opened.map_or_else(|error| said(&error), |_| "opened".into())
    });
}
