//! Environment variables of a sandbox: validation, and the precedence of their sources.

use std::collections::BTreeMap;

use secrecy::{ExposeSecret as _, SecretString};

use crate::{callback, spec::Credentials};

/// Variables of one sandbox. All values are secret, because any may be a key.
pub type Environment = BTreeMap<String, SecretString>;

/// Maximum number of variables per project.
pub const MAX_VARIABLES: usize = 500;
/// Maximum length of a value in bytes; the kernel refuses 128 KiB (`MAX_ARG_STRLEN`, execve(2)).
pub const MAX_VALUE_BYTES: usize = 100 * 1024;

/// Invalid variable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidVariable {
    #[error(
        "{0:?} is not a valid variable name: a name begins with a letter or _, and has letters, digits and _, at most 128 characters"
    )]
    Name(String),
    #[error("the value of {0} holds a NUL byte, which no process can receive")]
    Nul(String),
    #[error("the value of {0} has more than {MAX_VALUE_BYTES} bytes")]
    TooLong(String),
    #[error("there are more than {MAX_VARIABLES} variables")]
    TooMany,
}

/// Validates a variable's name (POSIX, base definitions 8.1, with lower case allowed) and value.
///
/// # Errors
/// [`InvalidVariable`], with the variable and the rule.
pub fn check(name: &str, value: &str) -> Result<(), InvalidVariable> {
    let mut bytes = name.bytes();
    let begins_well = bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    if !begins_well || name.len() > 128 || !bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Err(InvalidVariable::Name(name.chars().take(150).collect()));
    }
    if value.contains('\0') {
        return Err(InvalidVariable::Nul(name.to_owned()));
    }
    if value.len() > MAX_VALUE_BYTES {
        return Err(InvalidVariable::TooLong(name.to_owned()));
    }
    Ok(())
}

/// The variable that names the project's database, ours or another.
pub const DATABASE_URL: &str = "DATABASE_URL";

/// Variables that a project's environment cannot set, and why. Every other variable of ours is a default: the
/// project's environment overrides it.
const RESERVED: [(&str, &str); 7] = [
    (
        "HOME",
        "the home folder is always /home/dev, where the project's volume is; a single command takes another one with `env HOME=… command`",
    ),
    (
        "USER",
        "it is the name of the account that a command runs as, which the image decides",
    ),
    (
        "LOGNAME",
        "it is the name of the account that a command runs as, which the image decides",
    ),
    ("PWD", "every shell sets it to the folder that it is in"),
    ("FSA_PATH", "the sandbox sets it, from PATH; set PATH instead"),
    (
        callback::URL_VARIABLE,
        "the sandbox sets it, and git and the agents depend on it",
    ),
    (
        callback::TOKEN_VARIABLE,
        "the sandbox sets it, and git and the agents depend on it",
    ),
];

/// Why a project's environment cannot set this variable, if so: it would have no effect.
#[must_use]
pub fn reserved(name: &str) -> Option<&'static str> {
    RESERVED
        .iter()
        .find_map(|(reserved, why)| (*reserved == name).then_some(*why))
}

/// `PATH` with the entries of `rest` that it lacks after its own. A `PATH` of the project's environment thus never
/// hides the programs of the image.
#[must_use]
pub fn path_with(path: &str, rest: &str) -> String {
    let mut entries: Vec<&str> = path.split(':').filter(|entry| !entry.is_empty()).collect();
    for entry in rest.split(':').filter(|entry| !entry.is_empty()) {
        if !entries.contains(&entry) {
            entries.push(entry);
        }
    }
    entries.join(":")
}

/// The variables of an image with `set` over them. Of `PATH`, the image's entries that `set` lacks come last.
#[must_use]
pub fn over_image(image: Environment, set: Environment) -> Environment {
    let path_of_image = image.get("PATH").cloned();
    let mut all = image;
    all.extend(set);
    if let (Some(of_image), Some(path)) = (path_of_image, all.get_mut("PATH")) {
        *path = path_with(path.expose_secret(), of_image.expose_secret()).into();
    }
    all
}

/// Variables of a database.
///
/// `DATABASE_URL` and `POSTGRES_URL` are the same URL, without parameters: libpq and most clients refuse
/// `?schema=public`, and `public` is the default schema of the one client that reads it (Prisma). The variables `PG*`
/// make `psql` work without arguments (PostgreSQL documentation, 34.15 Environment Variables).
#[must_use]
pub fn of_database(credentials: &Credentials) -> Environment {
    let url = credentials.url();
    let mut variables = Environment::new();
    variables.insert(DATABASE_URL.into(), url.clone());
    variables.insert("POSTGRES_URL".into(), url);
    for (name, value) in [
        ("PGHOST", credentials.host.clone()),
        ("PGPORT", credentials.port.to_string()),
        ("PGUSER", credentials.user.clone()),
        ("PGDATABASE", credentials.database.clone()),
    ] {
        variables.insert(name.into(), value.into());
    }
    variables.insert("PGPASSWORD".into(), credentials.password.clone());
    variables
}

/// The public addresses of a sandbox's ports.
#[derive(Clone, Debug)]
pub struct Addresses<'a> {
    /// The domain of all preview hosts, without a port.
    pub apps_domain: &'a str,
    /// The URL of a port, with `{port}` in place of its number.
    pub preview_url: String,
    /// The URL of port 3000.
    pub public_url: String,
}

/// Variables of the public addresses: ours, for programs that form URLs, and those with which development servers
/// accept requests for a preview host. Every server of a project may be requested under any port, so they name the whole
/// domain; who may open a preview is decided before a request reaches the sandbox.
#[must_use]
pub fn of_addresses(addresses: &Addresses<'_>) -> Environment {
    let domain = addresses.apps_domain;
    [
        ("FSA_APPS_DOMAIN", domain.to_owned()),
        ("FSA_PREVIEW_URL", addresses.preview_url.clone()),
        ("FSA_PUBLIC_URL", addresses.public_url.clone()),
        // Vite, and what is built on it: SvelteKit, Nuxt, Astro, Angular's development server.
        ("__VITE_ADDITIONAL_SERVER_ALLOWED_HOSTS", format!(".{domain}")),
        // Angular with server-side rendering.
        ("NG_ALLOWED_HOSTS", format!("*.{domain}")),
        // Ruby on Rails in development.
        ("RAILS_DEVELOPMENT_HOSTS", format!(".{domain}")),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.into()))
    .collect()
}

/// All variables of a sandbox. Later wins: the addresses, the database, and `given`, which are those of people (agent
/// credentials, project, request).
///
/// `NODE_ENV` is not among them: tools choose it by what they do (a development server, a build, a test run), and
/// `next build` fails where it is `development`.
#[must_use]
pub fn merge(given: Environment, database: Option<&Credentials>, addresses: &Addresses<'_>) -> Environment {
    let mut all = of_addresses(addresses);
    if let Some(credentials) = database {
        let another_server = ["PGHOST", "PGHOSTADDR", "PGSERVICE"]
            .iter()
            .any(|name| given.contains_key(*name));
        // libpq combines the variables, and our password must not be sent to another server.
        all.extend(
            of_database(credentials)
                .into_iter()
                .filter(|(name, _)| !(another_server && name.starts_with("PG"))),
        );
    }
    all.extend(given);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> Environment {
        pairs
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned().into()))
            .collect()
    }

    fn credentials() -> Credentials {
        Credentials {
            host: "127.0.0.1".into(),
            port: 5432,
            user: "u".into(),
            password: "p@ss".to_owned().into(),
            database: "d".into(),
        }
    }

    fn merged(given: &[(&str, &str)]) -> BTreeMap<String, String> {
        let addresses = Addresses {
            apps_domain: "apps.example",
            preview_url: "https://shop--{port}.apps.example".into(),
            public_url: "https://shop--3000.apps.example".into(),
        };
        merge(variables(given), Some(&credentials()), &addresses)
            .into_iter()
            .map(|(name, value)| (name, value.expose_secret().to_owned()))
            .collect()
    }

    #[test]
    fn every_variable_of_ours_is_a_default() {
        let ours = merged(&[]);
        for name in ours.keys() {
            let after = merged(&[(name, "mine")]);
            assert_eq!(after[name], "mine");
            assert_eq!(reserved(name), None, "{name}");
        }
    }

    #[test]
    fn the_urls_of_the_database_have_no_parameter_that_libpq_refuses() {
        let ours = merged(&[]);
        for name in ["DATABASE_URL", "POSTGRES_URL"] {
            assert_eq!(ours[name], "postgresql://u:p%40ss@127.0.0.1:5432/d");
        }
        assert_eq!(ours["PGPASSWORD"], "p@ss");
    }

    #[test]
    fn tools_choose_node_env_by_themselves() {
        assert!(!merged(&[]).contains_key("NODE_ENV"));
        assert_eq!(merged(&[("NODE_ENV", "production")])["NODE_ENV"], "production");
    }

    #[test]
    fn our_password_is_not_given_to_another_server() {
        for name in ["PGHOST", "PGHOSTADDR", "PGSERVICE"] {
            let all = merged(&[(name, "db.example")]);
            let named: Vec<_> = all.keys().filter(|name| name.starts_with("PG")).collect();
            assert_eq!(named, [name]);
            assert!(all.contains_key("DATABASE_URL"));
        }
        assert_eq!(merged(&[("PGDATABASE", "other")])["PGHOST"], "127.0.0.1");
    }

    #[test]
    fn development_servers_accept_the_hosts_of_previews() {
        let ours = merged(&[]);
        assert_eq!(ours["__VITE_ADDITIONAL_SERVER_ALLOWED_HOSTS"], ".apps.example");
        assert_eq!(ours["NG_ALLOWED_HOSTS"], "*.apps.example");
        assert_eq!(ours["RAILS_DEVELOPMENT_HOSTS"], ".apps.example");
        assert_eq!(ours["FSA_PREVIEW_URL"], "https://shop--{port}.apps.example");
    }

    #[test]
    fn a_path_keeps_its_order_and_gets_what_it_lacks() {
        assert_eq!(path_with("/x:/bin", "/usr/bin:/bin"), "/x:/bin:/usr/bin");
        assert_eq!(path_with("", "/usr/bin:/bin"), "/usr/bin:/bin");
        assert_eq!(path_with("/x:", ""), "/x");
    }

    #[test]
    fn a_project_overrides_the_image_and_hides_none_of_its_programs() {
        let image = variables(&[("PATH", "/opt/tool/bin:/bin"), ("A", "image"), ("B", "image")]);
        let all = over_image(image.clone(), variables(&[("PATH", "/mine"), ("A", "project")]));
        let get = |name: &str| all[name].expose_secret();
        assert_eq!(
            (get("PATH"), get("A"), get("B")),
            ("/mine:/opt/tool/bin:/bin", "project", "image")
        );
        let unset = over_image(image, Environment::new());
        assert_eq!(unset["PATH"].expose_secret(), "/opt/tool/bin:/bin");
    }

    #[test]
    fn an_invalid_name_or_value_is_refused() {
        assert!(check("GOOD_1", "x").is_ok());
        assert!(check("_", "").is_ok());
        for name in ["", "1A", "A-B", "A B", "A=B", "É"] {
            assert!(matches!(check(name, ""), Err(InvalidVariable::Name(_))), "{name}");
        }
        assert!(matches!(check("A", "\0"), Err(InvalidVariable::Nul(_))));
        assert!(matches!(
            check("A", &"x".repeat(MAX_VALUE_BYTES + 1)),
            Err(InvalidVariable::TooLong(_))
        ));
    }
}
