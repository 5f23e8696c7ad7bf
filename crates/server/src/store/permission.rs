//! Permissions in a project, as types. A look-up declares the permission it needs, and the [`Authorized`] that it
//! returns proves that the caller has it. Only look-ups create one, so a forgotten check does not compile.

use std::{marker::PhantomData, ops::Deref};

use fsa_model::sharing::ProjectRole;

use super::{caller::Caller, projects::ProjectRow};
use crate::error::{Error, Result};

mod sealed {
    pub trait Sealed {}
}

/// A permission in a project.
pub trait Permission: sealed::Sealed + Send + Sync + 'static {
    /// The lowest role that has it.
    const MIN_ROLE: ProjectRole;
    /// Whether a token of the scope `read` is too narrow for it.
    const CHANGES: bool;
}

/// A permission to change something.
pub trait Changes: Permission {}

macro_rules! permissions {
    ($($(#[$doc:meta])* $name:ident needs $role:ident, changes $changes:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name;
        impl sealed::Sealed for $name {}
        impl Permission for $name {
            const MIN_ROLE: ProjectRole = ProjectRole::$role;
            const CHANGES: bool = $changes;
        }
    )*};
}

permissions! {
    /// To see the project: status, events, logs, files, listings, terminal output.
    Read needs Viewer, changes false;
    /// To do everything inside of the sandbox, to start and stop it, to read and change its environment.
    Write needs Editor, changes true;
    /// To change the project's settings, ports and members.
    Manage needs Admin, changes true;
    /// To delete the project.
    Own needs Owner, changes true;
}

impl Changes for Write {}
impl Changes for Manage {}
impl Changes for Own {}

/// A project in which a caller has the permission `R`.
#[derive(Debug)]
pub struct Authorized<R> {
    caller: Caller,
    project: ProjectRow,
    role: ProjectRole,
    permission: PhantomData<R>,
}

impl<R: Permission> Authorized<R> {
    /// Grants the permission, if this role in the project and this credential of the caller have it. For look-ups,
    /// which have read the role.
    ///
    /// # Errors
    /// Not found for a token of another project; 403 with the missing role or scope.
    pub(super) fn new(caller: &Caller, project: ProjectRow, role: ProjectRole) -> Result<Self> {
        if !caller.sees(project.id) {
            return Err(Error::not_found("project"));
        }
        if role < R::MIN_ROLE {
            return Err(Error::forbidden(format!(
                "This needs the role {} in the project, and you have the role {role}.",
                R::MIN_ROLE
            ))
            .with_project(project.id));
        }
        if R::CHANGES {
            caller.must_write()?;
        }
        Ok(Self {
            caller: caller.clone(),
            project,
            role,
            permission: PhantomData,
        })
    }

    /// The same project with another permission, where the caller has that too.
    ///
    /// # Errors
    /// 403 with the missing role or scope.
    pub fn with_permission<Other: Permission>(&self) -> Result<Authorized<Other>> {
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
}

impl<R> Deref for Authorized<R> {
    type Target = ProjectRow;

    fn deref(&self) -> &ProjectRow {
        &self.project
    }
}
