//! What is to be done about a project's database, from what was found: pure.

/// One row of [`super::statements::LOOK`].
#[derive(Clone, Debug, Default, sqlx::FromRow)]
pub struct Found {
    pub has_role: bool,
    /// It may sign in, and is no more than a plain role.
    pub may_login: bool,
    pub verifier: Option<String>,
    pub mark: Option<String>,
    pub has_database: bool,
    /// By the role of its name.
    pub owned: bool,
    /// Its owner may close it to everybody, themselves among them.
    pub admits: bool,
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
pub enum Verdict {
    Absent,
    Partial(Missing),
    /// A copy into it has begun and not ended.
    Copying,
    Ready,
    /// There is something of its name that is not ours; what.
    Foreign(&'static str),
}

/// `mark` is the comment of a role of this project.
pub fn judge(found: &Found, mark: &str, password_is_right: bool) -> Verdict {
    match (found.has_role, found.has_database) {
        (false, false) => return Verdict::Absent,
        (false, true) => return Verdict::Foreign("a database"),
        (true, _) => {}
    }
    let theirs = found.mark.as_deref().unwrap_or_default();
    if theirs == super::statements::copying(mark) {
        return Verdict::Copying;
    }
    if theirs != mark {
        return Verdict::Foreign("a role");
    }
    if found.has_database && !found.owned {
        return Verdict::Foreign("a database");
    }
    let missing = Missing {
        role: false,
        login: !(found.may_login && password_is_right),
        broken: found.broken,
        database: !found.has_database || found.broken,
        privileges: !(found.admits && found.closed),
    };
    if missing == Missing::default() {
        Verdict::Ready
    } else {
        Verdict::Partial(missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: &str = "fsa project 7";

    fn ready() -> Found {
        Found {
            has_role: true,
            may_login: true,
            verifier: None,
            mark: Some(MARK.to_owned()),
            has_database: true,
            owned: true,
            admits: true,
            broken: false,
            closed: true,
        }
    }

    #[test]
    fn what_is_complete_is_ready_and_what_is_not_there_is_absent() {
        assert_eq!(judge(&ready(), MARK, true), Verdict::Ready);
        assert_eq!(judge(&Found::default(), MARK, false), Verdict::Absent);
    }

    #[test]
    fn whatever_lacks_our_mark_is_not_ours() {
        for found in [
            Found {
                mark: None,
                ..ready()
            },
            Found {
                mark: Some("fsa project 8".into()),
                ..ready()
            },
            Found {
                owned: false,
                ..ready()
            },
            Found {
                has_role: false,
                ..ready()
            },
        ] {
            assert!(
                matches!(judge(&found, MARK, true), Verdict::Foreign(_)),
                "{found:?}"
            );
        }
    }

    #[test]
    fn only_what_is_missing_is_made() {
        let missing = |found: Found, right| match judge(&found, MARK, right) {
            Verdict::Partial(missing) => missing,
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
                Found {
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
                Found {
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
                Found {
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
