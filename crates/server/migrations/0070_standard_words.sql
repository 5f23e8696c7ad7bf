-- Renames to the standard terms of the code: desired state, failure, requeue, warning, login link.
-- Renaming a column keeps its data, constraints, indexes and triggers; only the text of functions must follow.

alter table sandboxes rename column wanted to desired_state;
alter table sandboxes rename column trouble to failure;
alter table sandboxes rename column hints to requeues;
alter table sandboxes rename column phase_told to notified_phase;
alter index sandboxes_wished rename to sandboxes_unattempted;

alter table remarks rename to warnings;
alter table warnings rename column told to reported_count;

alter table links rename to login_links;

alter table tasks rename column said_failed to reported_failed;
alter table tasks rename column said_cost to reported_cost;

-- Stored values: the kind of a failure, and the kinds and fields of events.
update sandboxes set failure = jsonb_set(failure, '{kind}', '"transient"') where failure ->> 'kind' = 'passing';
update events set data = (data - 'trouble') || jsonb_build_object('failure', data -> 'trouble') where data ? 'trouble';
update events set data = jsonb_set(data, '{failure,kind}', '"transient"') where data #>> '{failure,kind}' = 'passing';
update events set data = (data - 'wish') || jsonb_build_object('action', data -> 'wish') where data ? 'wish';
update events set kind = 'lifecycleRequested' where kind = 'wished';

-- A change of the desired state wakes the workers.
create function desired_state_changed() returns trigger language plpgsql as $$
begin
    perform pg_notify('fsa_desired_state', new.id::text);
    return null;
end $$;
drop trigger wish_made on sandboxes;
create trigger desired_state_changed after insert or update of generation on sandboxes
    for each row execute function desired_state_changed();
drop function wish_made();

-- Deleting a project terminates each of its sandboxes, in the same transaction.
create function project_deletion_requested() returns trigger language plpgsql as $$
begin
    update sandboxes set desired_state = 'terminated', generation = generation + 1
        where project_id = new.id and desired_state <> 'terminated';
    perform pg_notify('fsa_desired_state', new.id::text);
    return null;
end $$;
drop trigger project_wished_away on projects;
create trigger project_deletion_requested after update of deleted_at on projects for each row
    when (old.deleted_at is null and new.deleted_at is not null)
    execute function project_deletion_requested();
drop function project_wished_away();

create or replace function task_changed() returns trigger language plpgsql as $$
begin
    perform pg_notify('fsa_sandbox', new.project_id::text);
    if tg_op = 'INSERT' or (old.ended_at is null and new.ended_at is not null) then
        perform pg_notify('fsa_desired_state', new.id::text);
    end if;
    return null;
end $$;
