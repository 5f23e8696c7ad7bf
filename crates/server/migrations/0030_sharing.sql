-- Who may use a project beside its owner, and as what.
create table project_members (
    project_id uuid not null references projects on delete cascade,
    user_id    uuid not null references users on delete cascade,
    role       text not null check (role in ('viewer', 'editor', 'admin')),
    created_at timestamptz not null default now(),
    primary key (project_id, user_id)
);
create index project_members_of_user on project_members (user_id);

-- What was let in by a share is asked again: streams of that user, and the gateway's way to the project.
create function member_changed() returns trigger language plpgsql as $$
begin
    perform pg_notify('fsa_auth', coalesce(new.user_id, old.user_id)::text);
    perform pg_notify('fsa_sandbox', coalesce(new.project_id, old.project_id)::text);
    return null;
end $$;
create trigger member_changed after insert or update or delete on project_members
    for each row execute function member_changed();

-- As before, and the same promise for everybody who reads the project's events among those of other
-- owners: the number is drawn under a lock of each reader. The owner's comes first, so that no member is
-- missed who came before the last event; readers' are taken in one order, so that nobody waits in a circle.
create or replace function number_event() returns trigger language plpgsql as $$
declare
    members uuid[];
    reader  integer;
begin
    perform pg_advisory_xact_lock(20001, hashtext(new.owner_id::text));
    select coalesce(array_agg(user_id), '{}') into members
        from project_members where project_id = new.project_id;
    for reader in
        select distinct hashtext(id::text) from unnest(members || new.owner_id) id order by 1
    loop
        perform pg_advisory_xact_lock(20002, reader);
    end loop;
    new.id := nextval('events_id');
    perform pg_notify('fsa_event', concat_ws(' ', new.owner_id, new.project_id, new.id,
                                             array_to_string(members, ' ')));
    return new;
end $$;
