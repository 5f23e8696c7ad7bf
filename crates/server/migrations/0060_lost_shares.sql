-- Who loses a project that was shared with them by what an event tells: they have no right in it any more, so of
-- the event itself they see that, and nothing else.
alter table events add column lost_by uuid[] not null default '{}';
create index events_of_loser on events using gin (lost_by) where lost_by <> '{}';

-- As before, and they are readers of that one event.
create or replace function number_event() returns trigger language plpgsql as $$
declare
    readers uuid[];
    reader  integer;
begin
    perform pg_advisory_xact_lock(20001, hashtext(new.owner_id::text));
    select coalesce(array_agg(id), '{}') into readers from (
        select user_id as id from project_members where project_id = new.project_id
        union select unnest(new.lost_by)) all_of_them;
    for reader in
        select distinct hashtext(id::text) from unnest(readers || new.owner_id) id order by 1
    loop
        perform pg_advisory_xact_lock(20002, reader);
    end loop;
    new.id := nextval('events_id');
    perform pg_notify('fsa_event', concat_ws(' ', new.owner_id, new.project_id, new.id,
                                             array_to_string(readers, ' ')));
    return new;
end $$;
