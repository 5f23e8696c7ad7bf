-- What a user may have at the same time, where it is not what the server's settings say; model::limits::Limits.
alter table users add limits jsonb;
