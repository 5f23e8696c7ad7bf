//! Paths of sandboxd's HTTP API, for its router and its clients. The path of the sandbox callback is
//! [`crate::callback::ROUTE`].

pub const STATUS: &str = "/v1/status";
pub const WATCH: &str = "/v1/watch";
pub const USAGE: &str = "/v1/usage";
pub const EXEC: &str = "/v1/exec";
/// The collection of tasks; one of them is a [`member`] of it by its id.
pub const TASKS: &str = "/v1/tasks";
pub const FILES: &str = "/v1/files";
/// Read-only files below the project's folder. A separate path, because an older sandboxd refuses an unknown path, and
/// would ignore an unknown parameter.
pub const PROJECT_FILES: &str = "/v1/project-files";
pub const MOVE: &str = "/v1/move";
pub const TERMINAL: &str = "/v1/terminal";
/// Read-only terminal; a separate path for the same reason.
pub const TERMINAL_WATCH: &str = "/v1/terminal/watch";
/// The collection of terminal sessions; one of them is a [`member`] of it by its name.
pub const TERMINALS: &str = "/v1/terminals";
pub const LOGS: &str = "/v1/logs";
pub const RESTART_START_COMMAND: &str = "/v1/restart-start-command";
pub const CLONE: &str = "/v1/clone";

/// Path of a collection's member. `name` is percent-encoded already.
#[must_use]
pub fn member(collection: &str, name: &str) -> String {
    format!("{collection}/{name}")
}

/// Name of the member, if `path` is the path of one in `collection`.
#[must_use]
pub fn member_of<'a>(collection: &str, path: &'a str) -> Option<&'a str> {
    path.strip_prefix(collection)?.strip_prefix('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_found_in_its_own_collection_only() {
        assert_eq!(member_of(TASKS, &member(TASKS, "a")), Some("a"));
        assert_eq!(member_of(TERMINALS, &member(TASKS, "a")), None);
        assert_eq!(member_of(TERMINAL, TERMINALS), None);
        assert_eq!(member_of(TASKS, TASKS), None);
    }
}
