-- Runs of coding agents. Those of a project take their turns: the oldest that has not ended is due.

create table tasks (
    id              uuid primary key,
    project_id      uuid not null references projects on delete cascade,
    created_by      uuid references users on delete set null,
    agent           text not null,
    prompt          text not null,
    model           text,
    budget_micros   bigint check (budget_micros >= 0),
    timeout_seconds integer not null,
    continues       uuid,
    created_at      timestamptz not null default now(),
    cancelled_at    timestamptz,            -- the wish
    -- observed:
    state           text not null default 'queued'
                    check (state in ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
    sandbox_id      uuid,                   -- where it runs
    position        bigint not null default 0, -- of the output up to which it was read
    steps           bigint not null default 0,
    session         text,                   -- the agent's own name for the conversation
    result          text,
    said_failed     boolean not null default false, -- the agent itself says so
    said_cost       bigint not null default 0,      -- the agent's own words about the cost
    cost_micros     bigint not null default 0,      -- what the relay counted
    exit_code       integer,
    error           text,
    changed_files   jsonb not null default '[]',
    started_at      timestamptz,
    ended_at        timestamptz,
    -- lease of the process that follows it:
    lease_id        uuid,
    lease_until     timestamptz
);
create index tasks_of_project on tasks (project_id, created_at, id);
create index tasks_open on tasks (created_at) where ended_at is null;

create table task_steps (
    task_id  uuid not null references tasks on delete cascade,
    sequence bigint not null,
    at       timestamptz not null default now(),
    kind     text not null,
    data     jsonb not null,
    primary key (task_id, sequence)
);

-- Whoever waits for the project looks again; a new task wakes those who run them.
create function task_changed() returns trigger language plpgsql as $$
begin
    perform pg_notify('fsa_sandbox', new.project_id::text);
    if tg_op = 'INSERT' or (old.ended_at is null and new.ended_at is not null) then
        perform pg_notify('fsa_wish', new.id::text);
    end if;
    return null;
end $$;
create trigger task_changed after insert or update of state, steps, cancelled_at on tasks
    for each row execute function task_changed();
