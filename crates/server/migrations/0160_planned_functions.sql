-- PostgreSQL plans the body of a function in SQL at each statement that calls it, and does not inline one with a
-- subquery; it keeps the plans of one in PL/pgSQL for the session. Every query of a project's status calls both.
create or replace function is_name_reserved(wanted text, for_owner uuid) returns boolean language plpgsql stable as $$
begin
    return exists (
        select 1 from reserved_names r
         where r.name = wanted and r.owner_id <> for_owner
           and (r.until > now() or exists (
               select 1 from projects l where l.owner_id = r.owner_id and l.name = r.name and l.deleted_at is null)));
end $$;

create or replace function is_login_former(of_user uuid) returns boolean language plpgsql stable as $$
begin
    return exists (
        select 1 from users u join former_logins f on f.login = u.login where u.id = of_user and f.until > now());
end $$;
