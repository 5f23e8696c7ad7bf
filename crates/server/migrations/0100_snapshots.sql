-- Snapshots of volumes, and their restore. The data plane has the files; a row is written before the snapshot is
-- taken and deleted after it is gone, so no snapshot is forgotten.

create table snapshots (
    id               uuid primary key,
    project_id       uuid not null references projects on delete cascade,
    -- The branch, and its sandbox when the snapshot was requested.
    volume_id        uuid not null references branches on delete cascade,
    sandbox_id       uuid not null,
    resource         text not null,
    name             text,
    cause            text not null
                     check (cause in ('manual', 'schedule', 'agent', 'before-restore', 'backup')),
    idempotency_key  text,
    created_by       uuid references users on delete set null,
    -- When it was requested; when it is ready, the time of its content.
    created_at       timestamptz not null default now(),
    deleted_at       timestamptz,            -- its deletion was requested
    -- observed:
    state            text not null default 'creating' check (state in ('creating', 'ready', 'failed')),
    failure          jsonb,
    bytes            bigint,
    measured_at      timestamptz,
    database_version text,
    database_bytes   bigint,
    -- lease of the process that creates or deletes it:
    attempts         integer not null default 0,
    next_attempt_at  timestamptz not null default now(),
    lease_id         uuid,
    lease_until      timestamptz
);
create index snapshots_of_project on snapshots (project_id);
create index snapshots_of_branch on snapshots (volume_id, created_at, id);
create index snapshots_due on snapshots (next_attempt_at) where state = 'creating' or deleted_at is not null;
create unique index snapshots_by_name on snapshots (volume_id, name) where deleted_at is null;
create unique index snapshots_by_key on snapshots (volume_id, idempotency_key);

-- The restore that was requested, until it is done: the snapshot, and the one that first keeps the present state.
alter table sandboxes
    add column restore_snapshot uuid,
    add column restore_before uuid;

create trigger sandbox_restore_changed after update of restore_snapshot on sandboxes for each row
    when (old.restore_snapshot is distinct from new.restore_snapshot)
    execute function sandbox_seen();

-- A change wakes those who wait for it; a new request wakes the workers.
create function snapshot_changed() returns trigger language plpgsql as $$
begin
    perform pg_notify('fsa_sandbox', coalesce(new.project_id, old.project_id)::text);
    if tg_op = 'INSERT' or tg_op = 'UPDATE' and old.deleted_at is null and new.deleted_at is not null then
        perform pg_notify('fsa_desired_state', new.id::text);
    end if;
    return null;
end $$;
create trigger snapshot_changed after insert or delete or update of state, deleted_at, failure, bytes on snapshots
    for each row execute function snapshot_changed();
