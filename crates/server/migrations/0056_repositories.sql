-- A repository that was made from a project. Git in the project's sandboxes is let in to it with its
-- owner's account, as it is to the one that the project was cloned from.
create table published_repositories (
    project_id uuid primary key references projects on delete cascade,
    url        text not null,
    created_at timestamptz not null default now()
);

-- The repository's server did not take the credential when git last showed it.
alter table git_credentials add column refused_at timestamptz;
