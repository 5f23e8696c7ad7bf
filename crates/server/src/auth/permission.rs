//! Rights in a project, as types: a look-up says which one it needs, and what it returns proves that the
//! caller has it. Nobody has a [`Authorized`] without having asked, so a check that was forgotten does not
//! compile.

use std::{marker::PhantomData, ops::Deref, time::Duration};

use fsa_model::sharing::ProjectRole;

use super::Caller;
use crate::{
    error::{Error, Result},
    state::App,
    store::{notify::Topic, project_access, projects::ProjectRow},
};

/// How often a long connection asks by itself whether its right still holds.
const RECHECK: Duration = Duration::from_secs(60);

mod sealed {
    pub trait Sealed {}
}

/// A right in a project.
pub trait Permission: sealed::Sealed + Send + Sync + 'static {
    /// The least role that has it.
    const NEEDS: ProjectRole;
    /// Whether a token of the scope `read` is too narrow for it.
    const CHANGES: bool;
}

/// A right to change something.
pub trait Changes: Permission {}

macro_rules! rights {
    ($($(#[$doc:meta])* $name:ident needs $role:ident, changes $changes:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name;
        impl sealed::Sealed for $name {}
        impl Permission for $name {
            const NEEDS: ProjectRole = ProjectRole::$role;
            const CHANGES: bool = $changes;
        }
    )*};
}

rights! {
    /// To see it: status, events, logs, files, listings, what happens in a terminal.
    Read needs Viewer, changes false;
    /// To do everything inside of the sandbox, to start and stop it, to know and change its environment.
    Write needs Editor, changes true;
    /// To change its settings, its ports, and who it is shared with.
    Manage needs Admin, changes true;
    /// To delete it.
    Own needs Owner, changes true;
}

impl Changes for Write {}
impl Changes for Manage {}
impl Changes for Own {}

/// A project in which a caller has a right.
#[derive(Debug)]
pub struct Authorized<R> {
    caller: Caller,
    project: ProjectRow,
    role: ProjectRole,
    right: PhantomData<R>,
}

impl<R: Permission> Authorized<R> {
    /// Grants the right, if this role in the project and this credential of the caller have it. For the
    /// look-ups, which know the role.
    ///
    /// # Errors
    /// Not found for a token of another project; 403 with what is missing.
    pub(crate) fn new(caller: &Caller, project: ProjectRow, role: ProjectRole) -> Result<Self> {
        if !caller.sees(project.id) {
            return Err(Error::not_found("project"));
        }
        if role < R::NEEDS {
            return Err(Error::forbidden(format!(
                "This needs the role {} in the project, and you have the role {role}.",
                R::NEEDS
            ))
            .of(project.id));
        }
        if R::CHANGES {
            caller.must_write()?;
        }
        Ok(Self {
            caller: caller.clone(),
            project,
            role,
            right: PhantomData,
        })
    }

    /// The same project with another right, where the caller has that too.
    ///
    /// # Errors
    /// 403 with what is missing.
    pub fn also<Other: Permission>(&self) -> Result<Authorized<Other>> {
        Authorized::new(&self.caller, self.project.clone(), self.role)
    }

    #[must_use]
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    #[must_use]
    pub fn role(&self) -> ProjectRole {
        self.role
    }

    /// Waits until the right no longer holds: the credential ended, or the share was withdrawn or became
    /// less. For streams and WebSockets, which outlive the check at their beginning.
    pub async fn ended(&self, app: &App) {
        let withdrawn = async {
            let mut interest = app.hub.interest(Topic::Credentials(self.caller.user()));
            loop {
                match project_access::role(&app.store, &self.caller, self.project.id).await {
                    // Of a project that is gone, its last events may still be on their way.
                    Ok(project_access::Place::Gone) => {}
                    Ok(project_access::Place::As(role)) if role >= R::NEEDS => {}
                    Ok(_) => return,
                    Err(error) => tracing::warn!(%error, "cannot tell whether a project is still shared"),
                }
                tokio::select! {
                    () = interest.changed() => {}
                    () = tokio::time::sleep(RECHECK) => {}
                }
            }
        };
        tokio::select! {
            () = self.caller.ended(app) => {}
            () = withdrawn => {}
        }
    }
}

impl<R> Deref for Authorized<R> {
    type Target = ProjectRow;

    fn deref(&self) -> &ProjectRow {
        &self.project
    }
}
