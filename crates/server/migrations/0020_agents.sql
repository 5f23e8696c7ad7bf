-- Credentials of coding agents, what they cost, and how much a project may spend.

-- A user's own variables for agents: the layer between the operator's and the project's.
create table agent_credentials (
    user_id    uuid primary key references users on delete cascade,
    variables  bytea not null,              -- sealed JSON object
    updated_at timestamptz not null default now()
);

-- What the models' answers said that they took, added up for each day (UTC).
create table agent_usage (
    project_id         uuid not null references projects on delete cascade,
    day                date not null,
    provider           text not null,
    model              text not null,
    requests           bigint not null default 0,
    input_tokens       bigint not null default 0,
    output_tokens      bigint not null default 0,
    cache_read_tokens  bigint not null default 0,
    cache_write_tokens bigint not null default 0,
    cost_micros        bigint not null default 0, -- millionths of a US dollar
    primary key (project_id, day, provider, model)
);

-- Millionths of a US dollar for a calendar month (UTC); null: the server's own limit, if any.
alter table projects add agent_budget_micros bigint check (agent_budget_micros >= 0);
