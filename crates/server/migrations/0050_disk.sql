-- What a project's sandbox and database have on disk, as last measured, and when that was; measured only
-- where a limit on disk holds.
alter table projects
    add disk_bytes bigint not null default 0,
    add disk_measured_at timestamptz;
