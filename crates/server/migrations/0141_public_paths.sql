-- Paths of a private port that everyone may request, for callbacks of other servers.
alter table port_settings
    alter column host_header drop not null,
    add public_paths text[] not null default '{}';
