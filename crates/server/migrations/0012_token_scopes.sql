-- What a token may do of what its user may do.
alter table api_tokens
    add scope      text not null default 'write' check (scope in ('read', 'write')),
    -- Set: this project and nothing else.
    add project_id uuid references projects on delete cascade;
