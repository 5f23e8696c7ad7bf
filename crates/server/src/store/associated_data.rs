//! Associated data of each encrypted column. Encryption and decryption must use the same, so it is defined here
//! and nowhere else.

use crate::encryption::AssociatedData;

/// A project's variables: a JSON object of name to value. `project` is its id.
#[must_use]
pub const fn project_environment(project: &str) -> AssociatedData<'_> {
    AssociatedData {
        table: "projects",
        column: "environment",
        row: project,
    }
}

/// A branch's variables: a JSON object of name to value. `branch` is its id.
#[must_use]
pub const fn branch_environment(branch: &str) -> AssociatedData<'_> {
    AssociatedData {
        table: "branches",
        column: "environment",
        row: branch,
    }
}

/// A user's variables for coding agents: a JSON object. `user` is their id.
#[must_use]
pub const fn agent_credentials(user: &str) -> AssociatedData<'_> {
    AssociatedData {
        table: "agent_credentials",
        column: "variables",
        row: user,
    }
}

/// The password of a project's repository. `project` is the project's id.
#[must_use]
pub const fn git_password(project: &str) -> AssociatedData<'_> {
    AssociatedData {
        table: "git_credentials",
        column: "password",
        row: project,
    }
}

/// The password of a project's database. `project` is the project's id.
#[must_use]
pub const fn database_password(project: &str) -> AssociatedData<'_> {
    AssociatedData {
        table: "databases",
        column: "password",
        row: project,
    }
}

/// The bearer token of a sandbox's sandboxd. `sandbox` is its id.
#[must_use]
pub const fn control_token(sandbox: &str) -> AssociatedData<'_> {
    AssociatedData {
        table: "sandboxes",
        column: "control_token",
        row: sandbox,
    }
}

/// The variables that a start request added: a JSON object. `sandbox` is its id.
#[must_use]
pub const fn request_environment(sandbox: &str) -> AssociatedData<'_> {
    AssociatedData {
        table: "sandboxes",
        column: "request_environment",
        row: sandbox,
    }
}

/// The token of a user's account at GitHub. `user` is the user's id.
#[must_use]
pub const fn github_token(user: &str) -> AssociatedData<'_> {
    AssociatedData {
        table: "github_accounts",
        column: "token",
        row: user,
    }
}

/// The refresh token of a user's account at GitHub. `user` is the user's id.
#[must_use]
pub const fn github_refresh_token(user: &str) -> AssociatedData<'_> {
    AssociatedData {
        table: "github_accounts",
        column: "refresh_token",
        row: user,
    }
}

/// The PKCE verifier of a sign-in in flight. `state` is the hash of its state, in hexadecimal.
#[must_use]
pub const fn github_verifier(state: &str) -> AssociatedData<'_> {
    AssociatedData {
        table: "github_sign_ins",
        column: "verifier",
        row: state,
    }
}
