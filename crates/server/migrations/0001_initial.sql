-- The control plane's tables. Columns that hold a wish are written by request handlers; columns
-- that hold what was observed are written by workers under a lease. No column is written by both.

create table users (
    id            uuid primary key,
    login         text not null unique check (login ~ '^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$'),
    role          text not null check (role in ('owner', 'member')),
    password_hash text,
    created_at    timestamptz not null default now(),
    disabled_at   timestamptz,
    -- The wish to remove; the row goes with the last of the projects.
    removed_at    timestamptz
);

-- How a user signs in other than by password or link; one row per account elsewhere.
create table identities (
    provider   text not null,
    subject    text not null,
    user_id    uuid not null references users on delete cascade,
    created_at timestamptz not null default now(),
    primary key (provider, subject)
);

-- One-time links. Only a hash of the token is kept.
create table links (
    id         uuid primary key,
    token_hash bytea not null unique,
    purpose    text not null check (purpose in ('signin', 'invite')),
    user_id    uuid references users on delete cascade, -- for signin
    role       text check (role in ('owner', 'member')), -- for invite
    created_by uuid references users on delete cascade,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null,
    used_at    timestamptz
);

create table sessions (
    id           uuid primary key,
    token_hash   bytea not null unique,
    user_id      uuid not null references users on delete cascade,
    user_agent   text not null default '',
    address      text not null default '',
    created_at   timestamptz not null default now(),
    last_seen_at timestamptz not null default now(),
    expires_at   timestamptz not null
);
create index sessions_of_user on sessions (user_id);

create table api_tokens (
    id           uuid primary key,
    token_hash   bytea not null unique,
    user_id      uuid not null references users on delete cascade,
    name         text not null,
    created_at   timestamptz not null default now(),
    expires_at   timestamptz,
    last_used_at timestamptz
);
create index api_tokens_of_user on api_tokens (user_id);

create table projects (
    id            uuid primary key,
    owner_id      uuid not null references users,
    name          text not null,
    description   text,
    image         jsonb not null,           -- model::Image
    size          text not null,            -- model::Size
    region        text not null,
    repository    jsonb,                    -- model::Repository
    start_command text,
    environment   bytea not null,           -- sealed JSON object
    created_at    timestamptz not null default now(),
    updated_at    timestamptz not null default now(),
    -- Since when it has its name: among projects of the same name the first has the short host name.
    named_at      timestamptz not null default now(),
    deleted_at    timestamptz               -- the wish; the row goes when everything of it is gone
);
-- A name is free again as soon as its project is wished away: resources are found by their own names.
create unique index projects_by_name on projects (owner_id, name) where deleted_at is null;
create index projects_by_host on projects (name, named_at, id) where deleted_at is null;

-- A user who was removed goes with the last of their projects.
create function project_gone() returns trigger language plpgsql as $$
begin
    delete from users u where u.id = old.owner_id and u.removed_at is not null
        and not exists (select 1 from projects p where p.owner_id = u.id);
    return null;
end $$;
create trigger project_gone after delete on projects for each row execute function project_gone();

create table databases (
    project_id uuid primary key references projects on delete cascade,
    resource   text not null unique,        -- model::ResourceName; the role is the same with _
    password   bytea not null,              -- sealed
    -- observed:
    status     text not null default 'CREATING'
               check (status in ('CREATING', 'READY', 'LOST', 'DROPPING', 'DROPPED')),
    ever_ready boolean not null default false,
    created_at timestamptz not null default now()
);

create table sandboxes (
    id                  uuid primary key,
    project_id          uuid not null references projects on delete cascade,
    resource            text not null unique, -- model::ResourceName
    is_main             boolean not null default true,
    control_token       bytea not null,       -- sealed
    -- wish:
    wanted              text not null check (wanted in ('running', 'stopped', 'terminated')),
    generation          bigint not null default 1,
    restarts            bigint not null default 0, -- bumped by a wish to restart
    request_environment bytea not null,       -- sealed JSON object
    -- observed:
    observed_generation bigint not null default 0, -- the newest generation whose wish was reached
    container           text not null default 'absent'
                        check (container in ('absent', 'stopped', 'starting', 'running')),
    conditions          jsonb not null default '[]', -- five of model::Condition
    trouble             jsonb,                -- model::Trouble of the last attempt, if it failed
    attempts            integer not null default 0,  -- failed ones in a row
    next_attempt_at     timestamptz not null default now(),
    status              jsonb,                -- model::sandboxd::Status, as last pushed
    observed_at         timestamptz,
    -- lease of the worker that acts on it:
    lease_id            uuid,
    lease_until         timestamptz,
    created_at          timestamptz not null default now(),
    updated_at          timestamptz not null default now()
);
create index sandboxes_of_project on sandboxes (project_id);
create unique index one_main_sandbox on sandboxes (project_id) where is_main and wanted <> 'terminated';
create index sandboxes_due on sandboxes (next_attempt_at);

-- Ports of a project that are open to more than those who may see it.
create table port_shares (
    project_id uuid not null references projects on delete cascade,
    port       integer not null check (port between 1 and 65535),
    sharing    text not null check (sharing in ('link', 'public')),
    link_hash  bytea,
    created_at timestamptz not null default now(),
    primary key (project_id, port)
);

-- Append-only. Outlives its project, so that people can read how it ended.
create table events (
    id         bigint primary key,
    owner_id   uuid not null,
    project_id uuid not null,
    sandbox_id uuid,
    kind       text not null,
    message    text not null,
    data       jsonb not null default '{}',
    created_at timestamptz not null default now()
);
create index events_of_project on events (project_id, id);
create index events_of_owner on events (owner_id, id);
create sequence events_id;

-- A reader resumes after the last id that it saw, so an id must never become visible after a
-- higher one of the same owner: the number is drawn under a lock that is held until commit.
create function number_event() returns trigger language plpgsql as $$
begin
    perform pg_advisory_xact_lock(20001, hashtext(new.owner_id::text));
    new.id := nextval('events_id');
    perform pg_notify('fsa_event', new.owner_id::text || ' ' || new.project_id::text || ' ' || new.id::text);
    return new;
end $$;
create trigger number_event before insert on events for each row execute function number_event();

-- Who did what to which object, from where, with which result.
create table audit (
    id      bigint generated always as identity primary key,
    at      timestamptz not null default now(),
    user_id uuid,
    action  text not null,
    object  text not null,
    address text not null default '',
    result  text not null,
    data    jsonb not null default '{}'
);
create index audit_of_user on audit (user_id, id);

-- A wish wakes the workers.
create function wish_made() returns trigger language plpgsql as $$
begin
    perform pg_notify('fsa_wish', new.id::text);
    return null;
end $$;
create trigger wish_made after insert or update of generation on sandboxes
    for each row execute function wish_made();

-- Whoever waits for a sandbox looks again.
create function sandbox_seen() returns trigger language plpgsql as $$
begin
    perform pg_notify('fsa_sandbox', old.project_id::text);
    return null;
end $$;
create trigger sandbox_changed after update on sandboxes for each row
    when ((old.wanted, old.generation, old.observed_generation, old.container, old.trouble)
        is distinct from (new.wanted, new.generation, new.observed_generation, new.container, new.trouble))
    execute function sandbox_seen();
create trigger sandbox_gone after delete on sandboxes for each row execute function sandbox_seen();

-- What was learnt about a user's credentials is forgotten wherever it was remembered.
create function credentials_changed() returns trigger language plpgsql as $$
begin
    perform pg_notify('fsa_auth', old.user_id::text);
    return null;
end $$;
create trigger session_ended after delete on sessions for each row execute function credentials_changed();
create trigger token_revoked after delete on api_tokens for each row execute function credentials_changed();

create function user_changed() returns trigger language plpgsql as $$
begin
    perform pg_notify('fsa_auth', old.id::text);
    return null;
end $$;
create trigger user_changed after update of login, role, disabled_at, removed_at on users
    for each row execute function user_changed();
create trigger user_gone after delete on users for each row execute function user_changed();
