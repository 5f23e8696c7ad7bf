-- What an agent changed: from the state of the project's files when it began, which is a tree of the
-- project's own git repository, to their state at its end.
alter table tasks
    add column start_tree text,             -- null where the folder was no repository
    add column diff       text,             -- unified; null where it could not be made
    add column diff_cut   boolean not null default false;
