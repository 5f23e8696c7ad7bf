-- The bare host name of a project stays its owner's after a rename or a deletion: somebody else's project under the same
-- address would get the cookies, stored data and links that were meant for the former one. Until a year has passed, and
-- as long as its owner has a project of that name.
create table reserved_names (
    name     text primary key,
    owner_id uuid not null,
    until    timestamptz not null
);

-- Whether the bare host name is another owner's.
create function is_name_reserved(wanted text, for_owner uuid) returns boolean language sql stable as $$
    select exists (
        select 1 from reserved_names r
         where r.name = wanted and r.owner_id <> for_owner
           and (r.until > now() or exists (
               select 1 from projects l where l.owner_id = r.owner_id and l.name = r.name and l.deleted_at is null)))
$$;

create function reserve_name() returns trigger language plpgsql as $$
begin
    if old.deleted_at is not null or is_name_reserved(old.name, old.owner_id) then
        return null;
    end if;
    -- A project that was not the first of its name never had the bare host name, unless its owner had reserved it.
    if exists (select 1 from projects q
                where q.name = old.name and q.id <> old.id and q.deleted_at is null
                  and (q.named_at, q.id) < (old.named_at, old.id)
                  and not is_name_reserved(q.name, q.owner_id)) then
        return null;
    end if;
    insert into reserved_names (name, owner_id, until) values (old.name, old.owner_id, now() + interval '1 year')
    on conflict (name) do update set owner_id = excluded.owner_id, until = excluded.until;
    delete from reserved_names r where r.until < now() and not exists (
        select 1 from projects l where l.owner_id = r.owner_id and l.name = r.name and l.deleted_at is null);
    return null;
end $$;
create trigger reserve_name_of_renamed after update of name, deleted_at on projects for each row
    when (old.name is distinct from new.name or (old.deleted_at is null and new.deleted_at is not null))
    execute function reserve_name();
create trigger reserve_name_of_deleted after delete on projects for each row execute function reserve_name();
