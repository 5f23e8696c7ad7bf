-- Scheduled snapshots. A project without a row has the default of its region.
create table snapshot_schedules (
    project_id uuid primary key references projects on delete cascade,
    -- How many hours and days have a snapshot that is kept; both 0: none are taken.
    hourly     integer not null check (hourly between 0 and 48),
    daily      integer not null check (daily between 0 and 60),
    updated_at timestamptz not null default now()
);

alter table branches
    add column schedule_checked_at timestamptz, -- observed: when the schedule was last followed
    add column schedule_refused    text;        -- observed: why no snapshot was taken then
create index branches_by_schedule on branches (coalesce(schedule_checked_at, created_at)) where deleted_at is null;
create index snapshots_scheduled on snapshots (project_id, volume_id, created_at) where cause = 'schedule';
