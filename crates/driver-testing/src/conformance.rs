//! Conformance suite of drivers: the guarantees of [`fsa_driver::Driver`] and [`fsa_driver::Databases`],
//! one story each ([`stories`]).
//!
//! A driver's tests implement [`World`] and call [`crate::conformance_tests!`], which generates a test for each story,
//! or [`run`], which runs all stories in sequence. Every story creates its own projects, so stories may run in parallel
//! in one world, and removes what it created.

mod fixture;
pub mod stories;

use std::panic::AssertUnwindSafe;

use async_trait::async_trait;
pub use fixture::Fixture;
use fsa_model::{DatabaseSpec, Image, SandboxRef};
use futures_util::FutureExt as _;
pub use futures_util::future::BoxFuture;

use fsa_driver::{SharedDatabases, SharedDriver};

/// A data plane under test, and actions on it that bypass the driver.
#[async_trait]
pub trait World: Send + Sync {
    fn driver(&self) -> SharedDriver;

    /// The databases of the region, if it has any.
    fn databases(&self) -> Option<SharedDatabases>;

    /// An existing image with `env`, `sh` and `true`.
    fn image(&self) -> Image;

    /// An image that does not exist; the driver detects that without a request to a registry.
    fn missing_image(&self) -> Image;

    /// A start command that listens on this port of the loopback and echoes.
    fn echo_command(&self, port: u16) -> String;

    /// A writable folder of the root file system, outside the home volume.
    fn root_folder(&self) -> &'static str {
        "/var/tmp"
    }

    /// Kills the sandbox's process 1, as a crash would.
    async fn kill(&self, sandbox: &SandboxRef);

    /// Inserts a row into a table of the database, with the credentials of its project.
    async fn insert_row(&self, database: &DatabaseSpec, text: &str) -> Result<(), String>;

    /// The rows of [`Self::insert_row`], in order.
    async fn select_rows(&self, database: &DatabaseSpec) -> Result<Vec<String>, String>;
}

/// Runs one story, and removes what it created, also after a failure.
///
/// # Panics
/// The story fails, or the cleanup does.
pub async fn run_story<F>(world: &dyn World, story: F)
where
    F: for<'a> FnOnce(&'a Fixture<'a>) -> BoxFuture<'a, ()>,
{
    let fixture = Fixture::new(world);
    let outcome = AssertUnwindSafe(story(&fixture)).catch_unwind().await;
    let cleanup = fixture.clean_up().await;
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
    cleanup.expect("the cleanup of the story succeeds");
}

/// Calls a macro with the name of every story.
#[doc(hidden)]
#[macro_export]
macro_rules! __stories {
    ($callback:path, $($context:tt)*) => {
        $callback! {
            $($context)*;
            an_unknown_sandbox_is_absent,
            a_started_sandbox_is_observed_and_responds,
            repeated_steps_change_nothing,
            another_spec_replaces_the_container_and_keeps_its_files,
            a_stopped_sandbox_keeps_its_files_and_starts_again,
            stopping_a_sandbox_that_does_not_run_succeeds,
            destroying_keeps_the_volume_and_other_sandboxes,
            destroying_an_absent_sandbox_succeeds,
            a_sandbox_after_a_removed_volume_has_an_empty_one,
            a_name_that_is_a_prefix_of_another_is_independent,
            programs_get_the_environment,
            a_listening_port_accepts_connections,
            a_sandbox_that_does_not_run_refuses_connections,
            a_killed_container_sends_a_requeue_and_is_observed,
            the_inventory_lists_existing_sandboxes_only,
            a_missing_image_is_an_input_error,
            several_sandboxes_start_in_parallel,
            a_start_cancelled_at_any_point_can_be_repeated,
            a_cancelled_start_does_not_continue_after_destroy,
            a_restored_snapshot_brings_back_the_files_of_its_moment,
            a_repeated_snapshot_is_kept_and_a_deleted_one_is_gone,
            a_running_sandbox_is_not_restored,
            snapshots_are_deleted_with_their_volume,
            a_diff_lists_what_changed_after_a_snapshot,
            a_volume_made_from_a_snapshot_is_independent,
            a_volume_gets_the_content_of_another_volumes_snapshot,
            a_change_after_a_snapshot_is_known,
            ensuring_a_database_again_keeps_its_rows,
            dropping_a_database_keeps_other_databases,
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
                $crate::conformance::run_story(&world, |fixture| {
                    Box::pin($crate::conformance::stories::$story(fixture))
                })
                .await;
            }
        )*
    };
}

/// Generates a test for each story. The expression returns a [`World`]; each test evaluates it, and it may await.
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
            run_story($world, |fixture| Box::pin(stories::$story(fixture))).await;
        )*
    };
}

/// Runs all stories in sequence.
///
/// # Panics
/// A story fails.
pub async fn run(world: &dyn World) {
    crate::__stories! { run_all, world }
}
