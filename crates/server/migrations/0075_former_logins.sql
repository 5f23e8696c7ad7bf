-- Logins of users who were deleted within a year. Host names with a login (project--port--login) stay the former user's:
-- a new user of that login has a part of the id in theirs.
create table former_logins (
    login text primary key,
    until timestamptz not null
);

-- Whether this user's login was another user's.
create function is_login_former(of_user uuid) returns boolean language sql stable as $$
    select exists (
        select 1 from users u join former_logins f on f.login = u.login where u.id = of_user and f.until > now())
$$;

create function keep_former_login() returns trigger language plpgsql as $$
begin
    delete from former_logins where until < now();
    insert into former_logins (login, until) values (old.login, now() + interval '1 year')
    on conflict (login) do update set until = excluded.until;
    return null;
end $$;
create trigger keep_former_login after delete on users for each row execute function keep_former_login();
