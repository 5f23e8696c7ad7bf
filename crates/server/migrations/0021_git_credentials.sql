-- What git in a project's sandboxes shows to the server of one repository.
create table git_credentials (
    project_id uuid primary key references projects on delete cascade,
    url        text not null,               -- of the repository, without user or password
    username   text not null,
    password   bytea not null,              -- sealed
    updated_at timestamptz not null default now()
);
