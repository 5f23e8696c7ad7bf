//! Environment variables of a sandbox: validation, and the precedence of their sources.

use std::collections::BTreeMap;

use secrecy::{ExposeSecret, SecretString};

use crate::spec::Credentials;

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

/// Variables of a database.
///
/// `DATABASE_URL` has `?schema=public`, which Prisma uses and libpq refuses; so `POSTGRES_URL` is the
/// same URL without it, and the variables `PG*` make `psql` work without arguments
/// (PostgreSQL documentation, 34.15 Environment Variables).
#[must_use]
pub fn of_database(credentials: &Credentials) -> Environment {
    let url = credentials.url();
    let mut variables = Environment::new();
    variables.insert(
        "DATABASE_URL".into(),
        format!("{}?schema=public", url.expose_secret()).into(),
    );
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

/// All variables of a sandbox. Later wins: agent credentials, project, request, database,
/// `NODE_ENV=development`.
#[must_use]
pub fn merge(
    agent: Environment,
    project: Environment,
    request: Environment,
    database: Option<&Credentials>,
) -> Environment {
    let mut all = agent;
    all.extend(project);
    all.extend(request);
    if let Some(credentials) = database {
        all.extend(of_database(credentials));
    }
    all.insert("NODE_ENV".into(), "development".to_owned().into());
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

    #[test]
    fn later_layers_win_and_the_database_is_last() {
        let credentials = Credentials {
            host: "127.0.0.1".into(),
            port: 5432,
            user: "u".into(),
            password: "p@ss".to_owned().into(),
            database: "d".into(),
        };
        let merged = merge(
            variables(&[("A", "agent"), ("B", "agent"), ("C", "agent")]),
            variables(&[("B", "project"), ("C", "project"), ("DATABASE_URL", "mine")]),
            variables(&[("C", "request"), ("NODE_ENV", "production")]),
            Some(&credentials),
        );
        let get = |name: &str| merged[name].expose_secret().to_owned();
        assert_eq!(
            (get("A"), get("B"), get("C")),
            ("agent".into(), "project".into(), "request".into())
        );
        assert_eq!(
            get("DATABASE_URL"),
            "postgresql://u:p%40ss@127.0.0.1:5432/d?schema=public"
        );
        assert_eq!(get("POSTGRES_URL"), "postgresql://u:p%40ss@127.0.0.1:5432/d");
        assert_eq!(get("PGPASSWORD"), "p@ss");
        assert_eq!(get("NODE_ENV"), "development");
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
