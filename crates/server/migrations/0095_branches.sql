-- Branches of projects. A branch has a volume and at most one sandbox that is not terminated; files and database are on
-- the volume. Every project has the branch main, whose volume has the project's id: so the volumes of earlier versions
-- are found. Names, environment and deletion are desired state, written by request handlers; the state of the database
-- and the removal are written by workers.
create table branches (
    volume_id           uuid primary key,
    project_id          uuid not null references projects on delete cascade,
    name                text not null
                        check (name ~ '^[a-z]([a-z0-9-]*[a-z0-9])?$' and name !~ '--' and length(name) <= 30),
    environment         bytea,              -- encrypted JSON object, over the project's; null: none
    created_at          timestamptz not null default now(),
    deleted_at          timestamptz,        -- the row goes when everything of it is gone
    -- observed:
    database_status     text not null default 'CREATING'
                        check (database_status in ('CREATING', 'READY', 'LOST', 'DROPPING', 'DROPPED')),
    database_ever_ready boolean not null default false,
    -- the removal, which begins when all its sandboxes are gone:
    removal_attempts    integer not null default 0,
    removal_due_at      timestamptz not null default now(),
    lease_id            uuid,
    lease_until         timestamptz
);
create unique index branches_by_name on branches (project_id, name) where deleted_at is null;
create index branches_removed on branches (removal_due_at) where deleted_at is not null;
-- Host names with a part of the id (model::host).
create index branches_by_host on branches (right(replace(volume_id::text, '-', ''), 12));

-- databases keeps what all branches of a project have in common: name, role and password. Its columns status and
-- ever_ready are not used any more.
insert into branches (volume_id, project_id, name, created_at, deleted_at, database_status, database_ever_ready)
    select p.id, p.id, 'main', p.created_at, p.deleted_at, coalesce(d.status, 'CREATING'), coalesce(d.ever_ready, false)
    from projects p left join databases d on d.project_id = p.id;

create function create_main_branch() returns trigger language plpgsql as $$
begin
    insert into branches (volume_id, project_id, name) values (new.id, new.id, 'main');
    return null;
end $$;
create trigger create_main_branch after insert on projects for each row execute function create_main_branch();

alter table sandboxes add volume_id uuid references branches on delete cascade;
update sandboxes set volume_id = project_id;
alter table sandboxes alter volume_id set not null;
create index sandboxes_of_branch on sandboxes (volume_id);
drop index one_main_sandbox;
create unique index one_sandbox_of_branch on sandboxes (volume_id) where desired_state <> 'terminated';

-- Tasks of a branch run in its sandbox, one after another.
alter table tasks add volume_id uuid references branches on delete cascade;
update tasks set volume_id = project_id;
alter table tasks alter volume_id set not null;
create index tasks_of_branch on tasks (volume_id, created_at, id);

-- The main branch for rows of a version that knows no branches.
create function default_branch() returns trigger language plpgsql as $$
begin
    new.volume_id := coalesce(new.volume_id, new.project_id);
    return new;
end $$;
create trigger default_branch before insert on sandboxes for each row execute function default_branch();
create trigger default_branch before insert on tasks for each row execute function default_branch();

-- Sandboxes are locked before branches, as by the workers' writes.
create or replace function project_deletion_requested() returns trigger language plpgsql as $$
begin
    update sandboxes set desired_state = 'terminated', generation = generation + 1
        where project_id = new.id and desired_state <> 'terminated';
    update branches set deleted_at = new.deleted_at where project_id = new.id and deleted_at is null;
    perform pg_notify('fsa_desired_state', new.id::text);
    return null;
end $$;

-- Workers remove a deleted branch, and main after the others; requests wait until it is gone.
create function branch_deleted() returns trigger language plpgsql as $$
begin
    perform pg_notify('fsa_desired_state', old.project_id::text);
    perform pg_notify('fsa_sandbox', old.project_id::text);
    return null;
end $$;
create trigger branch_deletion_requested after update of deleted_at on branches for each row
    when (old.deleted_at is null and new.deleted_at is not null) execute function branch_deleted();
create trigger branch_gone after delete on branches for each row execute function branch_deleted();

-- The branch of an event, which outlives the branch. The name of this trigger is before number_event's, whose lock is
-- held as shortly as possible.
alter table events add branch text;
create function branch_of_event() returns trigger language plpgsql as $$
begin
    if new.branch is null and new.sandbox_id is not null then
        select b.name into new.branch from sandboxes s join branches b on b.volume_id = s.volume_id
            where s.id = new.sandbox_id;
    end if;
    return new;
end $$;
create trigger branch_of_event before insert on events for each row execute function branch_of_event();

-- A version that knows no branches would start the sandbox of any branch with the main branch's files, so no branch is
-- created before its replicas have ended.
alter table replicas add knows_branches boolean not null default false;
