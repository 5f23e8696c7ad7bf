//! What is to be done about a project's database, from what was found: pure.

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
    /// Its owner may close it to everybody, themselves among them.
    pub allows_connections: bool,
    /// A drop was interrupted: PostgreSQL lets nobody in any more (`datconnlimit` -2).
    pub broken: bool,
    /// To everybody but its owner.
    pub closed: bool,
}

/// What has to be made or put right.
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

/// How a project's database is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatabaseState {
    Absent,
    Partial(Missing),
    /// A copy into it has begun and not ended.
    Copying,
    Ready,
    /// There is something of its name that is not ours; what.
    NotOurs(&'static str),
}

/// `mark` is the comment of a role of this project.
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
    fn what_is_complete_is_ready_and_what_is_not_there_is_absent() {
        assert_eq!(classify(&ready(), MARK, true), DatabaseState::Ready);
        assert_eq!(
            classify(&DatabaseRow::default(), MARK, false),
            DatabaseState::Absent
        );
    }

    #[test]
    fn whatever_lacks_our_mark_is_not_ours() {
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
