-- Retention of the audit log: entries may be deleted by a transaction that says so, after they were
-- exported. Every other change is refused as before.
create or replace function audit_is_append_only() returns trigger language plpgsql as $$
begin
    if tg_op = 'DELETE' and current_setting('fsa.audit_exported', true) = 'on' then
        return null;
    end if;
    raise exception 'the audit is append-only: nothing in it is changed or deleted'
        using errcode = 'insufficient_privilege';
end $$;
