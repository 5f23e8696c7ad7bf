//! State of a project's database, classified from one row of the catalogs: pure.

/// One row of [`super::statements::STATE`].
#[derive(Clone, Debug, Default, sqlx::FromRow)]
pub struct DatabaseRow {
    pub has_role: bool,
    /// It may sign in, and is no more than a plain role.
    pub may_login: bool,
    pub verifier: Option<String>,
    pub mark: Option<String>,
    pub has_database: bool,
    /// By the role of its name.
    pub owned: bool,
    /// Its owner could have disallowed connections, even their own.
    pub allows_connections: bool,
    /// A drop was interrupted: PostgreSQL refuses all connections (`datconnlimit` -2).
    pub broken: bool,
    /// PUBLIC has no CONNECT on it; only its owner has.
    pub closed: bool,
}

/// What must be made or repaired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    pub role: bool,
    pub login: bool,
    pub broken: bool,
    pub database: bool,
    pub privileges: bool,
}

impl Missing {
    pub fn everything() -> Self {
        Self {
            role: true,
            login: true,
            broken: false,
            database: true,
            privileges: true,
        }
    }
}

/// The state of a project's role and database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatabaseState {
    Absent,
    Partial(Missing),
    /// A copy into it has started and not finished.
    Copying,
    Ready,
    /// Its name is taken by something without our comment: a role or a database.
    NotOurs(&'static str),
}

/// `mark` is the comment that a role of this project carries.
pub fn classify(row: &DatabaseRow, mark: &str, password_matches: bool) -> DatabaseState {
    match (row.has_role, row.has_database) {
        (false, false) => return DatabaseState::Absent,
        (false, true) => return DatabaseState::NotOurs("a database"),
        (true, _) => {}
    }
    let theirs = row.mark.as_deref().unwrap_or_default();
    if theirs == super::statements::copying(mark) {
        return DatabaseState::Copying;
    }
    if theirs != mark {
        return DatabaseState::NotOurs("a role");
    }
    if row.has_database && !row.owned {
        return DatabaseState::NotOurs("a database");
    }
    let missing = Missing {
        role: false,
        login: !(row.may_login && password_matches),
        broken: row.broken,
        database: !row.has_database || row.broken,
        privileges: !(row.allows_connections && row.closed),
    };
    if missing == Missing::default() {
        DatabaseState::Ready
    } else {
        DatabaseState::Partial(missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: &str = "fsa project 7";

    fn ready() -> DatabaseRow {
        DatabaseRow {
            has_role: true,
            may_login: true,
            verifier: None,
            mark: Some(MARK.to_owned()),
            has_database: true,
            owned: true,
            allows_connections: true,
            broken: false,
            closed: true,
        }
    }

    #[test]
    fn a_complete_database_is_ready_and_a_missing_one_absent() {
        assert_eq!(classify(&ready(), MARK, true), DatabaseState::Ready);
        assert_eq!(
            classify(&DatabaseRow::default(), MARK, false),
            DatabaseState::Absent
        );
    }

    #[test]
    fn a_role_or_database_without_our_comment_is_not_ours() {
        for row in [
            DatabaseRow {
                mark: None,
                ..ready()
            },
            DatabaseRow {
                mark: Some("fsa project 8".into()),
                ..ready()
            },
            DatabaseRow {
                owned: false,
                ..ready()
            },
            DatabaseRow {
                has_role: false,
                ..ready()
            },
        ] {
            assert!(
                matches!(classify(&row, MARK, true), DatabaseState::NotOurs(_)),
                "{row:?}"
            );
        }
    }

    #[test]
    fn only_what_is_missing_is_made() {
        let missing = |row: DatabaseRow, right| match classify(&row, MARK, right) {
            DatabaseState::Partial(missing) => missing,
            other => panic!("{other:?}"),
        };
        let nothing = Missing::default();
        assert_eq!(
            missing(ready(), false),
            Missing {
                login: true,
                ..nothing
            }
        );
        assert_eq!(
            missing(
                DatabaseRow {
                    may_login: false,
                    ..ready()
                },
                true
            ),
            Missing {
                login: true,
                ..nothing
            }
        );
        assert_eq!(
            missing(
                DatabaseRow {
                    closed: false,
                    ..ready()
                },
                true
            ),
            Missing {
                privileges: true,
                ..nothing
            }
        );
        assert_eq!(
            missing(
                DatabaseRow {
                    broken: true,
                    ..ready()
                },
                true
            ),
            Missing {
                broken: true,
                database: true,
                ..nothing
            }
        );
    }
}
