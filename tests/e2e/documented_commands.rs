//! Documented commands: each `fsa` command in a code block of the README and the guide, typed on a terminal.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Command,
};

use fsa_tests::{
    PtyProgram, World, exported,
    invitation::{join, join_with_password},
};

const PASSWORD: &str = "correct horse battery staple";

/// Commands that need a repository's server, a model or a backup repository, with the tests that run them.
const ELSEWHERE: &[(&str, &str)] = &[
    ("fsa project create shop --repository", "e2e_git"),
    ("fsa git-credential set shop", "e2e_git"),
    ("fsa serve --origin", "e2e_browser"),
    ("fsa task", "e2e_tasks"),
    ("fsa backup", "e2e_backups"),
];

/// The commands in the code blocks of a document (lines that are indented by four spaces), without comments.
fn commands(document: &str) -> impl Iterator<Item = String> {
    document.lines().filter_map(|line| {
        let line = line.strip_prefix("    ")?;
        let line = line.strip_prefix("$ ").unwrap_or(line);
        let line = line.split(" # ").next().unwrap_or(line).trim_end();
        (line.starts_with("fsa ") || line.contains("do fsa ")).then(|| line.to_owned())
    })
}

fn documented() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests are in a folder of the repository");
    let guide = std::fs::read_dir(root.join("docs/guide")).expect("the guide");
    let pages = guide.map(|page| page.expect("an entry").path());
    [root.join("README.md")]
        .into_iter()
        .chain(pages)
        .flat_map(|page| commands(&std::fs::read_to_string(page).expect("a page")).collect::<Vec<_>>())
        .collect()
}

/// A person with a terminal, who follows the documents.
struct Reader<'a> {
    world: &'a World,
    /// What stands in the documents, and what this person writes in its place.
    own: BTreeMap<&'static str, String>,
    typed: RefCell<BTreeSet<String>>,
}

impl Reader<'_> {
    /// Types a command as documented.
    fn types(&self, documented: &str) -> PtyProgram {
        self.typed.borrow_mut().insert(documented.to_owned());
        let mut line = documented.to_owned();
        for (theirs, own) in &self.own {
            line = line.replace(theirs, own);
        }
        self.shell(&line)
    }

    #[allow(clippy::disallowed_methods, reason = "the subject is a program")]
    fn shell(&self, line: &str) -> PtyProgram {
        // The terminal is the controlling one, so that Ctrl-C is a signal.
        let mut bash = Command::new("setsid");
        let programs = exported("FSA_BIN").parent().expect("a folder").to_owned();
        let path = std::env::var("PATH").expect("a path");
        for (name, value) in self.world.command(&[]).get_envs() {
            match value {
                Some(value) => bash.env(name, value),
                None => bash.env_remove(name),
            };
        }
        bash.args(["--ctty", "bash", "-c", line])
            // The credentials are those of `fsa login`.
            .env_remove("FSA_TOKEN")
            .env_remove("FSA_URL")
            .env("PATH", format!("{}:{path}", programs.display()))
            // The browser that xdg-open starts.
            .env("BROWSER", "true")
            .current_dir(self.world.folder());
        PtyProgram::of(&mut bash)
    }

    /// Types a command that ends by itself and succeeds. Returns what it showed.
    fn runs(&self, documented: &str) -> String {
        let (code, shown) = self.types(documented).end();
        assert_eq!(code, Some(0), "{documented}: {shown}");
        shown
    }

    /// Answers the prompt of a command, which then succeeds.
    fn answers(&self, documented: &str, prompt: &str, answer: &str) {
        let mut program = self.types(documented);
        program.until(prompt);
        program.type_in(&format!("{answer}\r"));
        let (code, shown) = program.end();
        assert_eq!(code, Some(0), "{documented}: {shown}");
    }

    fn deletes(&self, project: &str) {
        let (code, shown) = self.shell(&format!("fsa project delete {project} --yes")).end();
        assert_eq!(code, Some(0), "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_types_each_command_of_the_readme_and_the_guide() {
    let image = exported("FSA_WEB_IMAGE");
    let world = World::start(&["--web-image", image.to_str().expect("a path of UTF-8")]);
    let link = world
        .printed()
        .iter()
        .find_map(|line| line.split_whitespace().find(|word| word.contains("/sign-in#")))
        .expect("a link");
    let reader = Reader {
        world: &world,
        own: BTreeMap::from([
            ("'http://localhost:8080/sign-in#…'", format!("'{link}'")),
            ("http://localhost:8080", world.url()),
            ("exec -n P", "exec -n shop".to_owned()),
            ("=…", "=a-value".to_owned()),
        ]),
        typed: RefCell::default(),
    };
    let file = |name: &str, content: &str| {
        let path = world.folder().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, content).expect("a file");
    };
    file("key", "sk-of-a-reader\n");
    file("names", "first\nsecond\n");
    file("src/index.js", "console.log(1)\n");

    // Signing in.
    reader.runs("fsa login 'http://localhost:8080/sign-in#…'");
    reader.answers(
        "fsa login http://localhost:8080 --with-token",
        "API token: ",
        &world.token,
    );
    join_with_password(&world, "ada", PASSWORD).await;
    reader.answers(
        "fsa login http://localhost:8080 --user ada",
        "Password: ",
        PASSWORD,
    );
    reader.answers("fsa login http://localhost:8080", "API token: ", &world.token);
    reader.answers(
        "fsa login http://localhost:8080 --with-token",
        "API token: ",
        &world.token,
    );

    // A project, and what happens in its terminal.
    reader.runs("fsa project create shop");
    let mut terminal = reader.types("fsa terminal shop");
    terminal.until("$ ");
    terminal.type_in("psql -c 'create table entries ()' && psql -c 'select count(*) from entries'\r");
    terminal.until("count");
    terminal.type_in("echo '{\"scripts\": {\"test\": \"node --test\"}}' > package.json; mkdir dist\r");
    terminal.type_in("echo 'web: python3 -u -m http.server $PORT' > Procfile; echo d''one\r");
    terminal.until("done");
    terminal.type_in("exit\r");
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(0), "{shown}");
    let mut second = reader.types("fsa terminal shop --session logs");
    second.until("$ ");
    second.type_in("\x1d");
    let (code, shown) = second.end();
    assert_eq!(code, Some(0), "{shown}");

    // Its parts.
    let mut logs = reader.types("fsa logs -f shop");
    logs.until("Serving HTTP on");
    logs.type_in("\x03");
    // It ends by the signal, so it has no exit code.
    assert_eq!(logs.end().0, None);
    assert!(
        reader
            .runs("fsa open shop 3000")
            .contains("http://shop--3000.localhost:")
    );
    reader.runs("fsa exec shop -- npm test");
    reader.runs("fsa exec shop -- ls -l");
    reader.runs("fsa cp ./src shop:src");
    reader.runs("fsa cp shop:dist ./dist");
    reader.runs("while read -r name; do fsa exec -n P -- touch \"$name\"; done < names");
    assert_eq!(
        world.api().shell("shop", "ls first second src").await,
        "first\nsecond\n\nsrc:\nindex.js\n"
    );
    let mut psql = reader.types("fsa db psql shop");
    psql.until("=# ");
    psql.type_in("\\q\r");
    assert_eq!(psql.end().0, Some(0));
    reader.runs("fsa db psql shop -- -c 'select now()'");
    assert!(reader.runs("fsa db url shop").contains("postgresql://"));
    reader.runs("fsa db dump shop shop.dump");
    reader.answers(
        "fsa db restore shop shop.dump",
        "Type its name to confirm: ",
        "shop",
    );
    let mut tunnel = reader.types("fsa db url shop --tunnel");
    tunnel.until("until Ctrl-C");
    tunnel.type_in("\x03");
    assert_eq!(tunnel.end().0, Some(0));
    reader.runs("fsa logs shop --source database");
    reader.runs("fsa port set shop 3000 --host-header localhost");
    assert!(
        reader
            .runs("fsa port public shop 3000 --path /webhook")
            .contains("Everyone may request /webhook.")
    );

    // Snapshots.
    reader.runs("fsa snapshot create shop --name before-the-upgrade");
    assert!(
        reader
            .runs("fsa snapshot list shop")
            .contains("before-the-upgrade")
    );
    reader.runs("fsa snapshot diff shop before-the-upgrade");
    reader.runs("fsa snapshot diff shop before-the-upgrade --text");
    assert!(
        reader
            .runs("fsa snapshot diff shop before-the-upgrade --database")
            .contains("0 tables differ")
    );
    assert!(
        reader
            .runs("fsa restore shop before-the-upgrade")
            .contains("RUNNING")
    );
    assert!(
        reader
            .runs("fsa snapshot schedule shop")
            .contains("no scheduled snapshots (default)")
    );
    reader.runs("fsa snapshot schedule shop --hourly 12 --daily 30");
    reader.runs("fsa snapshot schedule shop --off");
    reader.runs("fsa snapshot delete shop before-the-upgrade");

    // Branches.
    reader.runs("fsa branch create shop fix");
    reader.runs("fsa branch create shop again --from fix");
    reader.runs("fsa exec shop@fix -- npm test");
    reader.runs("fsa open shop@fix");
    reader.runs("fsa branch promote shop fix");
    reader.answers("fsa branch delete shop fix", "Type its name to confirm: ", "fix");

    // Agents and other people.
    reader.runs("fsa agent set-key ANTHROPIC_API_KEY < key");
    reader.runs("fsa agent show shop");
    reader.runs("fsa agent budget shop 20");
    join(&world, "grace").await;
    reader.runs("fsa share shop grace --as editor");
    assert!(reader.runs("fsa members shop").contains("grace"));
    reader.runs("fsa unshare shop grace");

    // The environment, and the end.
    reader.runs("fsa env set shop ANTHROPIC_API_KEY=…");
    reader.runs("fsa env set shop DATABASE_URL=…");
    reader.runs("fsa stop shop");
    reader.deletes("shop");
    reader.runs("fsa project create shop --template host --size large --env COLOR=blue");
    reader.deletes("shop");
    reader.runs("fsa project create shop --env DATABASE_URL=postgresql://me:secret@db.example.com/shop");

    let typed = reader.typed.into_inner();
    let elsewhere = |command: &String| ELSEWHERE.iter().any(|(start, _)| command.starts_with(start));
    let documented: BTreeSet<String> = documented().into_iter().filter(|one| !elsewhere(one)).collect();
    assert_eq!(typed, documented);
    world.finish().await;
}
