-- What the workers need to know besides the wish: how far it was tried, what it was tried with,
-- who follows a running sandbox, and where the removal of a project stands.

alter table sandboxes
    -- The newest generation that was tried, with or without success. A newer wish does not wait
    -- for the back-off of an older one.
    add attempted_generation bigint not null default 0,
    -- Digest of the spec that the container was last started with. A container that carries
    -- another one has drifted; a changed default of the server is not a drift.
    add digest               text,
    -- Counts hints, so that one which arrives during an attempt is not lost with its result.
    add hints                bigint not null default 0,
    -- The phase that the last event told.
    add phase_told           text,
    -- The replica that follows what sandboxd says.
    add follower             uuid;

create index sandboxes_wished on sandboxes (id) where generation > attempted_generation;
create index sandboxes_leased on sandboxes (lease_until) where lease_until is not null;

-- Processes of the control plane that are alive. One row each, renewed now and then, says for all
-- the sandboxes that the process follows that they are followed.
create table replicas (
    id          uuid primary key,
    started_at  timestamptz not null default now(),
    alive_until timestamptz not null
);

-- The removal of a project: its volume, its database, its row. It begins when all its sandboxes
-- are gone.
alter table projects
    add removal_attempts integer not null default 0,
    add removal_due_at   timestamptz not null default now(),
    add lease_id         uuid,
    add lease_until      timestamptz;
create index projects_removed on projects (removal_due_at) where deleted_at is not null;

-- To wish a project away is to wish each of its sandboxes away, in the same transaction.
create function project_wished_away() returns trigger language plpgsql as $$
begin
    update sandboxes set wanted = 'terminated', generation = generation + 1
        where project_id = new.id and wanted <> 'terminated';
    perform pg_notify('fsa_wish', new.id::text);
    return null;
end $$;
create trigger project_wished_away after update of deleted_at on projects for each row
    when (old.deleted_at is null and new.deleted_at is not null)
    execute function project_wished_away();

-- And nobody makes a sandbox for it any more. The lock lets a wish to delete that is under way
-- finish first.
create function sandbox_of_living_project() returns trigger language plpgsql as $$
begin
    perform 1 from projects where id = new.project_id and deleted_at is null for share;
    if not found then
        raise exception 'the project % is being deleted', new.project_id using errcode = 'foreign_key_violation';
    end if;
    return new;
end $$;
create trigger sandbox_of_living_project before insert on sandboxes
    for each row execute function sandbox_of_living_project();
