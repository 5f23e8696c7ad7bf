//! Suggestion of a start command, from the files of a project: pure, from the names in its folder and the content of a few.
//!
//! A suggestion installs what the command needs if that is not there, and listens on a port that previews reach. It is text
//! for a person, who decides; nothing runs by itself.

use fsa_model::{
    project_files::StartSuggestion,
    sandboxd::{ExecRequest, ExecResult},
};

use crate::{
    auth::{Caller, permission::Read},
    core::Core,
    error::Result,
    sandbox_client::RunningSandbox,
    store::branches::{self, BranchReference},
};

/// Prints the names in the folder, and after a zero byte each the first part of the files that are read.
const SCRIPT: &str = "ls -1A | head -n 500; for file in package.json requirements.txt pyproject.toml .envrc; do \
                      printf '\\0'; head -c 65536 -- \"$file\" 2>/dev/null; done; true";
const TIMEOUT_SECONDS: u32 = 20;

/// What the suggestion depends on.
#[derive(Debug, Default)]
struct Files<'a> {
    names: Vec<&'a str>,
    package: &'a str,
    requirements: &'a str,
    pyproject: &'a str,
    envrc: &'a str,
}

/// A start command for the files of a branch.
///
/// # Errors
/// Not found; 409 where the sandbox does not run.
pub async fn find(core: &Core, caller: &Caller, reference: &BranchReference) -> Result<StartSuggestion> {
    let project = branches::find::<Read>(&core.store, caller, reference).await?;
    let sandbox = RunningSandbox::of(core, &project).await?;
    let request = ExecRequest {
        command: ["sh", "-c", SCRIPT].map(str::to_owned).into(),
        timeout_seconds: Some(TIMEOUT_SECONDS),
        ..ExecRequest::default()
    };
    let ExecResult { stdout, .. } = sandbox.exec(&request).await?;
    Ok(suggest(&parse(&stdout)))
}

fn parse(output: &str) -> Files<'_> {
    let mut parts = output.split('\0');
    let mut next = || parts.next().unwrap_or_default();
    Files {
        names: next().lines().collect(),
        package: next(),
        requirements: next(),
        pyproject: next(),
        envrc: next(),
    }
}

fn suggest(files: &Files<'_>) -> StartSuggestion {
    let has = |name: &str| files.names.contains(&name);
    // sandboxd runs it without a start command.
    let found = if has("Procfile") {
        None
    } else {
        node(files)
            .or_else(|| python(files))
            .or_else(|| {
                Some((
                    "Gemfile",
                    "bundle install && bin/rails server -b 0.0.0.0 -p $PORT".into(),
                ))
                .filter(|_| has("Gemfile") && has("bin"))
            })
            .or_else(|| Some(("go.mod", "go run .".into())).filter(|_| has("go.mod")))
            .or_else(|| Some(("Cargo.toml", "cargo run".into())).filter(|_| has("Cargo.toml")))
            .or_else(|| {
                Some(("index.html", "python3 -m http.server $PORT".into())).filter(|_| has("index.html"))
            })
    };
    let Some((file, command)) = found else {
        return StartSuggestion::default();
    };
    let command = match exports_only(files.envrc) {
        true => format!(". ./.envrc; {command}"),
        false => command,
    };
    StartSuggestion {
        command: Some(command),
        file: Some(file.to_owned()),
    }
}

/// Whether a file for direnv has nothing but variables, so that any shell reads it.
fn exports_only(envrc: &str) -> bool {
    let mut lines = envrc
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .peekable();
    lines.peek().is_some() && lines.all(|line| line.starts_with("export ") && !line.contains(['$', '`']))
}

fn node(files: &Files<'_>) -> Option<(&'static str, String)> {
    let package: serde_json::Value = serde_json::from_str(files.package).ok()?;
    let script = ["dev", "start", "serve", "develop"]
        .into_iter()
        .find(|script| package["scripts"][script].is_string())?;
    let manager = [
        ("pnpm-lock.yaml", "pnpm"),
        ("yarn.lock", "yarn"),
        ("bun.lock", "bun"),
        ("bun.lockb", "bun"),
    ]
    .into_iter()
    .find_map(|(lock, manager)| files.names.contains(&lock).then_some(manager))
    .unwrap_or("npm");
    let install = match (manager, files.names.contains(&"package-lock.json")) {
        ("npm", true) => "npm ci".to_owned(),
        _ => format!("{manager} install"),
    };
    Some((
        "package.json",
        format!("[ -d node_modules ] || {install}; {manager} run {script}"),
    ))
}

fn python(files: &Files<'_>) -> Option<(&'static str, String)> {
    let has = |name: &str| files.names.contains(&name);
    let (source, install) = if has("requirements.txt") {
        ("requirements.txt", "-r requirements.txt")
    } else if has("pyproject.toml") {
        ("pyproject.toml", "-e .")
    } else if has("manage.py") {
        ("manage.py", "django")
    } else {
        return None;
    };
    let needs = |package: &str| {
        let text = format!("{}\n{}", files.requirements, files.pyproject).to_ascii_lowercase();
        text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_')
            .any(|word| word == package)
    };
    let module = ["main", "app"]
        .into_iter()
        .find(|module| has(&format!("{module}.py")));
    let run = if has("manage.py") {
        "python manage.py runserver 0.0.0.0:$PORT".to_owned()
    } else if let Some(module) = module.filter(|_| needs("fastapi") || needs("starlette")) {
        format!("uvicorn {module}:app --host 0.0.0.0 --port $PORT --reload")
    } else if let Some(module) = module.filter(|_| needs("streamlit")) {
        format!("streamlit run {module}.py --server.port $PORT")
    } else if let Some(module) = module.filter(|_| needs("flask")) {
        format!("flask --app {module} run --debug --host 0.0.0.0 --port $PORT")
    } else {
        format!("python {}.py", module?)
    };
    let command = format!(
        "[ -d .venv ] || {{ python3 -m venv .venv && .venv/bin/pip install {install}; }}; .venv/bin/{run}"
    );
    Some((source, command))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(output: &str) -> Option<String> {
        suggest(&parse(output)).command
    }

    #[test]
    fn the_scripts_and_the_lock_file_of_a_package_are_used() {
        let package = |names: &str, scripts: &str| {
            command(&format!(
                "package.json\n{names}\0{{\"scripts\": {scripts}}}\0\0\0"
            ))
            .unwrap_or_default()
        };
        let dev = r#"{"build": "x", "dev": "vite", "start": "y"}"#;
        assert_eq!(
            package("", dev),
            "[ -d node_modules ] || npm install; npm run dev"
        );
        assert_eq!(
            package("package-lock.json", dev),
            "[ -d node_modules ] || npm ci; npm run dev"
        );
        assert_eq!(
            package("pnpm-lock.yaml", dev),
            "[ -d node_modules ] || pnpm install; pnpm run dev"
        );
        assert_eq!(
            package("yarn.lock", r#"{"start": "node ."}"#),
            "[ -d node_modules ] || yarn install; yarn run start"
        );
        assert_eq!(package("", r#"{"test": "x"}"#), "");
        assert_eq!(command("package.json\0{\0\0\0"), None);
    }

    #[test]
    fn the_framework_of_a_python_application_is_used() {
        for (names, requirements, run) in [
            (
                "manage.py",
                "Django==6",
                "python manage.py runserver 0.0.0.0:$PORT",
            ),
            (
                "main.py",
                "fastapi[standard]>=0.1",
                "uvicorn main:app --host 0.0.0.0 --port $PORT --reload",
            ),
            (
                "app.py",
                "Flask",
                "flask --app app run --debug --host 0.0.0.0 --port $PORT",
            ),
            ("main.py", "numpy", "python main.py"),
        ] {
            let found = command(&format!("requirements.txt\n{names}\0\0{requirements}\0\0")).expect(run);
            assert!(found.ends_with(&format!(".venv/bin/{run}")), "{found}");
            assert!(found.contains("pip install -r requirements.txt"), "{found}");
        }
        assert_eq!(command("requirements.txt\0\0numpy\0\0"), None);
    }

    #[test]
    fn other_projects_are_known_by_their_files() {
        for (names, expected) in [
            ("index.html", Some("python3 -m http.server $PORT")),
            ("go.mod\nindex.html", Some("go run .")),
            ("Cargo.toml\nsrc", Some("cargo run")),
            ("README.md", None),
            ("", None),
            // A Procfile is run as it is.
            ("Procfile\nindex.html", None),
        ] {
            assert_eq!(
                command(&format!("{names}\0\0\0\0")).as_deref(),
                expected,
                "{names}"
            );
        }
    }

    #[test]
    fn variables_of_direnv_are_read_where_they_are_nothing_else() {
        let with = |envrc: &str| command(&format!("go.mod\n.envrc\0\0\0\0{envrc}")).unwrap();
        assert_eq!(with("# mine\nexport A=1\n"), ". ./.envrc; go run .");
        for other in ["use nix\n", "export A=$(id)\n", ""] {
            assert_eq!(with(other), "go run .", "{other}");
        }
    }
}
