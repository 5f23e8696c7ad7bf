-- What was written about what somebody did stays as it was written. Row triggers would let
-- TRUNCATE pass, so these are of statements.
create function audit_is_append_only() returns trigger language plpgsql as $$
begin
    raise exception 'the audit is append-only: nothing in it is changed or deleted'
        using errcode = 'insufficient_privilege';
end $$;
create trigger audit_is_append_only before update or delete or truncate on audit
    for each statement execute function audit_is_append_only();
