-- How requests to a port are presented to its application. A port without a row has the defaults.
create table port_settings (
    project_id  uuid not null references projects on delete cascade,
    port        integer not null check (port between 1 and 65535),
    host_header text not null check (host_header in ('localhost')),
    primary key (project_id, port)
);
