-- What a data plane said of a sandbox, so that each thing is told once, whoever hears it and however often it is
-- heard; the events are made from it.
create table remarks (
    sandbox_id uuid not null references sandboxes on delete cascade,
    source     text not null,               -- of what it was said, such as one pod
    cause      text not null,
    told       integer not null,            -- how often it had been said when that was last told
    since      timestamptz not null default now(),
    primary key (sandbox_id, source, cause)
);
