//! Command line tests: `fsa` as a person uses it.

use std::{
    ffi::{OsStr, OsString},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpListener,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    process::Stdio,
};

use fsa_tests::{PtyProgram, World};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

fn text(output: &std::process::Output) -> (i32, String, String) {
    (
        output.status.code().unwrap_or(-1),
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_manages_a_project() {
    let world = World::start(&[]);
    let run = |arguments: &[&str]| text(&world.fsa(arguments));

    let (code, out, err) = run(&[
        "project",
        "create",
        "todo",
        "--template",
        "host",
        "--env",
        "COLOR=blue",
    ]);
    assert_eq!(code, 0, "{err}");
    assert!(
        out.contains("todo is RUNNING") && out.contains("http://todo--3000.localhost:"),
        "{out}"
    );
    assert!(
        err.contains("✓ Database Creation") && err.contains("✓ Environment Ready"),
        "{err}"
    );

    let (code, _, err) = run(&["project", "create", "My Todo"]);
    assert_eq!(code, 2);
    assert!(err.contains("my-todo"), "{err}");
    let (code, _, err) = run(&["project", "create", "todo"]);
    assert_eq!(code, 5, "{err}");

    let (code, out, err) = run(&[
        "exec",
        "todo",
        "--",
        "sh",
        "-c",
        "echo $COLOR; echo grey >&2; exit 7",
    ]);
    assert_eq!((code, out.as_str(), err.as_str()), (7, "blue\n", "grey\n"));
    let (code, _, err) = run(&["exec", "todo", "--", "no-such-program"]);
    assert_eq!(code, 127);
    assert!(err.contains("no-such-program"), "{err}");
    assert_eq!(run(&["exec", "todo", "--", "/etc/passwd"]).0, 126);
    let shell = |script: &str| {
        let command = world.command(&[]);
        #[allow(
            clippy::disallowed_methods,
            reason = "the subject is a program in a shell's pipe"
        )]
        let mut bash = std::process::Command::new("bash");
        bash.args(["-c", script])
            .env("FSA", fsa_tests::exported("FSA_BIN"));
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => bash.env(name, value),
                None => bash.env_remove(name),
            };
        }
        text(&bash.output().expect("bash runs"))
    };
    let loops = "printf 'a\\nb\\n' | while read x; do $FSA exec todo -n -- echo $x; done";
    assert_eq!(shell(loops), (0, "a\nb\n".into(), String::new()));
    let closed = "$FSA exec todo -n -- yes | head -1; exit ${PIPESTATUS[0]}";
    assert_eq!(shell(closed), (141, "y\n".into(), String::new()));

    let (code, _, err) = run(&["env", "set", "todo", "SHAPE=round"]);
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("restarts"), "{err}");
    world.api().until_running("todo").await;
    let (_, out, _) = run(&["exec", "todo", "--", "sh", "-c", "echo $COLOR $SHAPE"]);
    assert_eq!(out, "blue round\n");
    let (_, out, _) = run(&["env", "list", "todo"]);
    assert_eq!(out, "COLOR\nSHAPE\n");
    run(&["env", "unset", "todo", "COLOR"]);
    world.api().until_running("todo").await;
    let (_, out, _) = run(&["env", "list", "todo", "--reveal"]);
    assert_eq!(out, "SHAPE=round\n");

    let file = world.folder().join("note.txt");
    std::fs::write(&file, "carried").expect("a file");
    let back = world.folder().join("back.txt");
    assert_eq!(run(&["cp", file.to_str().expect("a path"), "todo:notes/"]).0, 0);
    assert_eq!(
        run(&["cp", "todo:notes/note.txt", back.to_str().expect("a path")]).0,
        0
    );
    assert_eq!(std::fs::read_to_string(&back).expect("a copy"), "carried");
    let folder = world.folder().join("folder");
    assert_eq!(run(&["cp", "todo:notes", folder.to_str().expect("a path")]).0, 0);
    assert_eq!(
        std::fs::read_to_string(folder.join("note.txt")).expect("a copy"),
        "carried"
    );

    let (_, out, _) = run(&["db", "psql", "todo", "--", "-Atc", "select 42"]);
    assert_eq!(out, "42\n");
    let mut psql = PtyProgram::of(&mut world.command(&["db", "psql", "todo"]));
    psql.until("=# ");
    psql.type_in("select 40 + 2;\r");
    psql.until("42");
    psql.type_in("\\q\r");
    let (code, last) = psql.end();
    assert_eq!(code, Some(0), "{last}");
    let (_, out, _) = run(&["db", "url", "todo"]);
    assert!(
        out.starts_with("postgresql://todo_agentruntime_") && out.trim().ends_with("?schema=public"),
        "{out}"
    );

    let (_, out, _) = run(&["project", "list", "--json"]);
    let list: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(list["items"][0]["name"], "todo");
    let (_, out, _) = run(&["project", "list"]);
    assert!(out.contains("todo") && out.contains("RUNNING"), "{out}");
    let (_, out, _) = run(&["open", "todo", "5000", "--print"]);
    assert!(out.contains("todo--5000.localhost"), "{out}");

    assert_eq!(run(&["stop", "todo"]).0, 0);
    let (code, _, err) = run(&["exec", "todo", "--", "true"]);
    assert_eq!(code, 5, "{err}");
    assert_eq!(err.matches("The sandbox is stopped.").count(), 1, "{err}");
    assert_eq!(run(&["start", "todo"]).0, 0);
    assert_eq!(run(&["exec", "todo", "--", "cat", "notes/note.txt"]).1, "carried");
    let (_, out, _) = run(&["events", "todo"]);
    assert!(out.contains("RUNNING"), "{out}");

    let (code, _, err) = run(&["restart", "todo"]);
    assert_eq!(
        (code, err.matches("✓ Environment Ready").count()),
        (0, 1),
        "{err}"
    );
    let (_, out, err) = run(&["project", "set", "todo", "--description", "things"]);
    assert!(out.contains("things"), "{out}{err}");
    let (_, out, err) = run(&["project", "create", "idle", "--template", "host", "--no-start"]);
    assert_eq!((out.as_str(), err.as_str()), ("idle is STOPPED\n", ""));

    let (code, _, err) = run(&["project", "delete", "todo"]);
    assert_eq!(code, 2, "no confirmation without a terminal: {err}");
    assert_eq!(run(&["project", "delete", "todo", "--yes"]).0, 0);
    assert_eq!(run(&["project", "show", "todo"]).0, 3);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_printed_link_signs_in_once() {
    let world = World::start(&[]);
    let server = world.server.as_ref().expect("a server");
    let link = server
        .printed
        .iter()
        .find_map(|line| line.split_whitespace().find(|word| word.contains("/sign-in#")))
        .expect("a link");
    let mut login = world.command(&["login", link]);
    let first = text(&login.env_remove("FSA_TOKEN").output().expect("fsa runs"));
    assert_eq!(first.0, 0, "{first:?}");
    let listed = text(
        &world
            .command(&["project", "list"])
            .env_remove("FSA_TOKEN")
            .env_remove("FSA_URL")
            .output()
            .expect("fsa runs"),
    );
    assert_eq!(listed.0, 0, "{listed:?}");
    let mut again = world.command(&["login", link]);
    let second = text(&again.env_remove("FSA_TOKEN").output().expect("fsa runs"));
    assert_eq!(second.0, 4, "{second:?}");
    let wrong = text(
        &world
            .command(&["project", "list"])
            .env("FSA_TOKEN", "fsa_wrong")
            .output()
            .expect("fsa runs"),
    );
    assert_eq!(wrong.0, 4, "{wrong:?}");
    world.finish().await;
}

#[test]
fn an_unreachable_server_is_reported() {
    #[allow(clippy::disallowed_methods, reason = "the subject is a program")]
    let output = std::process::Command::new(fsa_tests::exported("FSA_BIN"))
        .args(["project", "list", "--url", "http://127.0.0.1:9"])
        .env("FSA_TOKEN", "fsa_x")
        .output()
        .expect("fsa runs");
    let (code, _, err) = text(&output);
    assert_eq!(code, 6);
    assert!(err.contains("no server answers at http://127.0.0.1:9"), "{err}");
}

/// A server that answers each request with this status.
fn refusing(status: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = BufReader::new(connection.expect("a connection"));
            let (mut line, mut body) = (String::new(), 0);
            while connection.read_line(&mut line).is_ok_and(|length| length > 2) {
                let lower = line.to_ascii_lowercase();
                if let Some(length) = lower.strip_prefix("content-length:") {
                    body = length.trim().parse().expect("a length");
                }
                line.clear();
            }
            // With unread bytes the connection would be reset, and with it the answer.
            let _ = connection.read_exact(&mut vec![0; body]);
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            let _ = connection.get_mut().write_all(answer.as_bytes());
        }
    });
    url
}

/// `fsa` as a client of that server, on a terminal. The command is dropped here, and with it its end of the terminal.
fn on_a_terminal(url: &str, arguments: &[&str]) -> PtyProgram {
    #[allow(clippy::disallowed_methods, reason = "the subject is a program")]
    let mut command = std::process::Command::new(fsa_tests::exported("FSA_BIN"));
    command
        .args(arguments)
        .env("FSA_URL", url)
        .env("FSA_TOKEN", "fsa_x");
    PtyProgram::of(&mut command)
}

#[test]
fn a_refused_command_on_a_terminal_ends_without_a_key() {
    let url = refusing("404 Not Found");
    for arguments in [
        &["terminal", "absent"][..],
        &["exec", "absent", "--", "true"],
        &["db", "psql", "absent"],
    ] {
        let (code, shown) = on_a_terminal(&url, arguments).end();
        assert_eq!(code, Some(3), "{arguments:?}: {shown}");
        assert!(shown.contains("the server responded with status 404"), "{shown}");
    }
}

#[test]
fn a_secret_is_prompted_for_on_a_terminal_and_not_shown() {
    let url = refusing("404 Not Found");
    // Without a scheme: http for a loopback address.
    let address = url.trim_start_matches("http://");
    let mut program = on_a_terminal(address, &["agent", "set-key", "ANTHROPIC_API_KEY"]);
    program.until("ANTHROPIC_API_KEY: ");
    program.type_in("hush\r");
    let (code, shown) = program.end();
    assert_eq!(code, Some(3), "{shown}");
    assert!(
        shown.contains("the server responded with status 404") && !shown.contains("hush"),
        "{shown}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_runs_on_this_terminal_or_without_one_and_gets_the_signals_of_fsa() {
    let world = World::start(&[]);
    world.api().create_running("todo").await;

    let script = "stty size; read -r line; echo \"got $line\"; exec sleep 1000";
    let mut program = PtyProgram::of(&mut world.command(&["exec", "-it", "todo", "sh", "-c", script]));
    program.until("30 100\r\n");
    program.type_in("a line\r");
    program.until("got a line\r\n");
    program.type_in("\x03");
    let (code, shown) = program.end();
    assert_eq!(code, Some(130), "{shown}");

    let program = PtyProgram::of(&mut world.command(&["exec", "-t", "-T", "todo", "--", "tty"]));
    let (code, shown) = program.end();
    assert_eq!((code, shown.as_str()), (Some(1), "not a tty\r\n"));

    for (signal, code) in [
        (Signal::SIGINT, 130),
        (Signal::SIGTERM, 143),
        (Signal::SIGHUP, 129),
    ] {
        let mut running = world
            .command(&["exec", "todo", "--", "sh", "-c", "echo ready; exec sleep 1000"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("fsa starts");
        let mut line = String::new();
        let mut output = BufReader::new(running.stdout.take().expect("output"));
        output.read_line(&mut line).expect("a line");
        assert_eq!(line, "ready\n");
        kill(Pid::from_raw(running.id().cast_signed()), signal).expect("a signal");
        let status = running.wait().expect("fsa ends");
        assert_eq!(status.code(), Some(code), "{signal}");
    }
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_whose_name_is_not_utf8_is_copied_both_ways_and_stays_sparse() {
    let world = World::start(&[]);
    world.api().create_running("todo").await;
    let name = OsStr::from_bytes(b"n\xe9.bin");
    let here = world.folder().join(name);
    std::fs::write(&here, "content").expect("a file");
    let file = std::fs::File::options()
        .write(true)
        .open(&here)
        .expect("the file");
    file.set_len(20_000_000).expect("a hole");
    let copy = |source: &OsStr, target: &OsStr| {
        let mut command = world.command(&["cp"]);
        let output = command.arg(source).arg(target).output().expect("fsa runs");
        assert_eq!(text(&output), (0, String::new(), String::new()));
    };

    copy(here.as_os_str(), OsStr::new("todo:"));
    let found = world.api().shell("todo", "stat -c '%s %b' n*.bin").await;
    let (size, blocks) = found.trim().split_once(' ').expect("two numbers");
    assert_eq!(size, "20000000");
    assert!(
        blocks.parse::<u64>().expect("a number") * 512 < 2_000_000,
        "{found}"
    );

    let back = world.folder().join("back");
    std::fs::create_dir(&back).expect("a folder");
    let mut source = OsString::from("todo:");
    source.push(name);
    copy(&source, back.as_os_str());
    let found = std::fs::metadata(back.join(name)).expect("the file");
    assert!(found.blocks() * 512 < 2_000_000, "{} blocks", found.blocks());
    assert!(std::fs::read(back.join(name)).expect("the file") == std::fs::read(&here).expect("the file"));
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_key_typed_into_fsa_terminal_is_written_once_across_a_crash_of_the_server() {
    let mut world = World::start(&[]);
    world.api().create_running("busy").await;
    let mut terminal = PtyProgram::of(&mut world.command(&["terminal", "busy"]));
    terminal.until("$ ");
    // An end of input that arrives before the program starts would be a character for the shell.
    terminal.type_in("marker=kept; stty -echo; echo $marker-$((40+1)); cat > typed\r");
    terminal.until("kept-41");
    let lines: Vec<String> = (0..300).map(|number| format!("{number}\n")).collect();

    for (number, line) in lines.iter().enumerate() {
        if number == 100 {
            world.crash();
        }
        if number == 200 {
            world.serve();
        }
        terminal.type_in(line);
    }
    terminal.type_in("\x04");
    terminal.type_in("stty echo; echo $marker-$((40+2))\r");
    terminal.until("kept-42");

    assert_eq!(world.api().shell("busy", "cat typed").await, lines.concat());
    terminal.type_in("\x1d");
    let (code, last) = terminal.end();
    assert_eq!(code, Some(0), "{last}");
    assert!(last.contains("detached from main; it keeps running"), "{last}");
    world.finish().await;
}
