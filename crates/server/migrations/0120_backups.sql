-- Backups of projects in the server's repository. A row is written before the work begins, and outlives its project, so
-- that its owner can restore it. The repository has the content.
create table backups (
    id                  uuid primary key,
    -- Who may restore it: the project's owner when it was requested.
    owner_id            uuid not null references users on delete cascade,
    project_id          uuid references projects on delete set null,
    project_name        text not null,
    -- The branch, and the snapshot of its volume that is stored; no references, because the backup outlives both.
    volume_id           uuid not null,
    branch              text not null,
    snapshot_id         uuid,
    created_by          uuid references users on delete set null,
    created_at          timestamptz not null default now(),
    cancel_requested    boolean not null default false,
    verify_requested_at timestamptz,
    deleted_at          timestamptz,            -- its deletion was requested
    -- observed:
    state               text not null default 'queued'
                        check (state in ('queued', 'running', 'ready', 'failed', 'canceled')),
    repository_snapshot text,
    files               bigint not null default 0,
    bytes               bigint not null default 0,
    added_bytes         bigint not null default 0,
    failure             jsonb,
    verified_at         timestamptz,
    problems            jsonb,
    finished_at         timestamptz,
    -- lease of the process that works on it:
    attempts            integer not null default 0,
    next_attempt_at     timestamptz not null default now(),
    lease_id            uuid,
    lease_until         timestamptz
);
create index backups_of_owner on backups (owner_id, created_at, id);
create index backups_of_project on backups (project_id, created_at, id);
create index backups_due on backups (next_attempt_at)
    where state in ('queued', 'running') or verify_requested_at is not null or deleted_at is not null;

create function backup_requested() returns trigger language plpgsql as $$
begin
    perform pg_notify('fsa_desired_state', new.id::text);
    return null;
end $$;
create trigger backup_requested after insert or update of cancel_requested, verify_requested_at, deleted_at on backups
    for each row execute function backup_requested();

-- A change wakes those who wait for it.
create function backup_changed() returns trigger language plpgsql as $$
begin
    if coalesce(new.project_id, old.project_id) is not null then
        perform pg_notify('fsa_sandbox', coalesce(new.project_id, old.project_id)::text);
    end if;
    return null;
end $$;
create trigger backup_changed after insert or delete or update of state, deleted_at, verified_at on backups
    for each row execute function backup_changed();

-- The volume of a project that is restored from a backup is made from it, before its sandbox is started for the first
-- time: the snapshot in the repository, until that is done.
alter table branches add source_backup text;
