//! Conformance suite of drivers: the guarantees of [`fsa_driver::Driver`] and [`fsa_driver::Databases`],
//! one story each ([`stories`]).
//!
//! A driver's tests implement [`World`] and call [`crate::conformance_tests!`], which makes a test
//! of each story, or [`run`], which runs them one after another. Every story makes its own
//! projects, so any number may run at once in one world, and removes what it made.

mod stage;
pub mod stories;

use std::panic::AssertUnwindSafe;

use async_trait::async_trait;
use fsa_model::{DatabaseSpec, Image, SandboxRef};
use futures_util::FutureExt as _;
pub use futures_util::future::BoxFuture;
pub use stage::Stage;

use fsa_driver::{SharedDatabases, SharedDriver};

/// A data plane under test, with what a story does without the driver.
#[async_trait]
pub trait World: Send + Sync {
    fn driver(&self) -> SharedDriver;

    /// The databases beside it, where there are any.
    fn databases(&self) -> Option<SharedDatabases>;

    /// An image that is there, with `env`, `sh` and `true`.
    fn image(&self) -> Image;

    /// An image that does not exist, which is found out without a request to a registry.
    fn missing_image(&self) -> Image;

    /// A start command that listens on this port of the loopback and sends back what it gets.
    fn echo_command(&self, port: u16) -> String;

    /// A folder of the root file system, outside the home volume, in which files can be made.
    fn root_folder(&self) -> &'static str {
        "/var/tmp"
    }

    /// Ends the sandbox's process 1 as a crash would, without the driver.
    async fn kill(&self, sandbox: &SandboxRef);

    /// Writes `text` into the database, with the credentials of its project.
    async fn mark(&self, database: &DatabaseSpec, text: &str) -> Result<(), String>;

    /// Reads what [`Self::mark`] wrote, in order.
    async fn marks(&self, database: &DatabaseSpec) -> Result<Vec<String>, String>;
}

/// Runs one story, and removes what it made, however it ends.
///
/// # Panics
/// Where the story does, or what it made cannot be removed.
pub async fn run_story<F>(world: &dyn World, story: F)
where
    F: for<'a> FnOnce(&'a Stage<'a>) -> BoxFuture<'a, ()>,
{
    let stage = Stage::new(world);
    let outcome = AssertUnwindSafe(story(&stage)).catch_unwind().await;
    let left = stage.clear().await;
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
    left.expect("what a story made can be removed");
}

/// Calls a macro with the name of every story.
#[doc(hidden)]
#[macro_export]
macro_rules! __stories {
    ($callback:path, $($context:tt)*) => {
        $callback! {
            $($context)*;
            of_nothing_nothing_is_seen,
            a_started_sandbox_is_seen_and_answers,
            doing_a_step_again_changes_nothing,
            another_spec_replaces_the_container_and_keeps_its_files,
            a_stopped_sandbox_keeps_its_files_and_comes_back,
            stopping_what_does_not_run_is_no_error,
            destroying_keeps_the_volume_and_the_neighbors,
            destroying_what_is_not_there_is_no_error,
            a_removed_volume_is_gone_for_good,
            names_that_begin_alike_live_and_die_apart,
            programs_get_the_environment,
            a_port_is_reached_where_something_listens,
            a_sandbox_that_does_not_run_refuses_connections,
            a_killed_container_is_told_of_and_seen,
            the_inventory_has_what_is_there_and_nothing_else,
            a_missing_image_is_the_persons_to_mend,
            several_sandboxes_start_at_once,
            a_start_that_is_dropped_anywhere_can_be_repeated,
            a_start_that_is_dropped_does_not_come_back_after_destroy,
            a_database_is_made_once_and_keeps_what_is_in_it,
            a_dropped_database_is_gone_and_its_neighbor_is_not,
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_tests {
    ($world:expr; $($story:ident,)*) => {
        $(
            #[tokio::test]
            async fn $story() {
                let world = $world;
                $crate::conformance::run_story(&world, |stage| {
                    Box::pin($crate::conformance::stories::$story(stage))
                })
                .await;
            }
        )*
    };
}

/// Makes a test of each story. The expression gives a [`World`]; it is evaluated in each test and
/// may await.
#[macro_export]
macro_rules! conformance_tests {
    ($world:expr) => {
        $crate::__stories! { $crate::__conformance_tests, $world }
    };
}

macro_rules! run_all {
    ($world:ident; $($story:ident,)*) => {
        $(
            tracing::info!(story = stringify!($story));
            run_story($world, |stage| Box::pin(stories::$story(stage))).await;
        )*
    };
}

/// Runs all stories, one after another.
///
/// # Panics
/// Where one of them does.
pub async fn run(world: &dyn World) {
    crate::__stories! { run_all, world }
}
