//! Snapshot schedule of a project: shown, set, and reset to the default of its region.

use fsa_model::{
    event::EventKind,
    snapshot_schedule::{MAX_DAILY, MAX_HOURLY, SnapshotSchedule, SnapshotScheduleView},
};

use super::snapshots::region_with_snapshots;
use crate::{
    auth::{
        Caller,
        permission::{Manage, Read},
    },
    core::Core,
    error::{Error, Result},
    store::{
        audit,
        events::{self, NewEvent},
        projects::{self, ProjectRow},
        snapshot_schedules as rows,
    },
};

/// The schedule that a project follows.
///
/// # Errors
/// Not found; 409 where the region has no snapshots.
pub async fn show(core: &Core, caller: &Caller, project: &str) -> Result<SnapshotScheduleView> {
    let found = projects::find::<Read>(&core.store, caller, project).await?;
    let mut connection = core.store.pool().acquire().await?;
    let (own, refused) = rows::of_project(&mut connection, found.id).await?;
    view(core, &found, own, refused)
}

/// Sets the schedule of a project; `None` resets it to the default of its region.
///
/// # Errors
/// Not found; 422 with the field and its rule; 409 where the region has no snapshots.
pub async fn set(
    core: &Core,
    caller: &Caller,
    project: &str,
    schedule: Option<SnapshotSchedule>,
) -> Result<SnapshotScheduleView> {
    let found = projects::find::<Manage>(&core.store, caller, project).await?;
    region_with_snapshots(core, &found)?;
    if let Some(schedule) = schedule {
        for (field, value, most) in [
            ("hourly", schedule.hourly, MAX_HOURLY),
            ("daily", schedule.daily, MAX_DAILY),
        ] {
            if value > most {
                return Err(Error::invalid(field, format!("it is a number from 0 to {most}")));
            }
        }
    }
    let mut tx = core.store.begin().await?;
    let project = projects::lock(&mut tx, &found).await?;
    let (before, refused) = rows::of_project(&mut tx, project.id).await?;
    if before != schedule {
        rows::set(&mut tx, project.id, schedule).await?;
        let object = format!("project {} ({})", project.id, project.name);
        audit::record(&mut tx, caller, "snapshot.schedule", object).await?;
        let message = match schedule {
            None => "The snapshot schedule was reset to the default.".to_owned(),
            Some(SnapshotSchedule::OFF) => "Scheduled snapshots were turned off.".to_owned(),
            Some(SnapshotSchedule { hourly, daily }) => {
                format!("The snapshot schedule was changed: {hourly} hourly, {daily} daily.")
            }
        };
        let event = NewEvent::new(&project, EventKind::ProjectChanged, message)
            .with(serde_json::json!({"fields": ["snapshotSchedule"], "by": caller.login()}));
        events::append(&mut tx, event).await?;
        tx.commit().await?;
    }
    view(core, &project, schedule, refused)
}

fn view(
    core: &Core,
    project: &ProjectRow,
    own: Option<SnapshotSchedule>,
    refused: Option<String>,
) -> Result<SnapshotScheduleView> {
    let region = region_with_snapshots(core, project)?;
    let shares = region.driver.capabilities().shares_snapshots;
    let schedule = own.unwrap_or(SnapshotSchedule::default_of(shares));
    Ok(SnapshotScheduleView {
        hourly: schedule.hourly,
        daily: schedule.daily,
        is_default: own.is_none(),
        refused: refused.filter(|_| !schedule.is_off()),
    })
}
