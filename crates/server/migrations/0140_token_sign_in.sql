-- Tokens that may create credentials: of the scope `admin` at any time, and that of a sign-in on the command line for an hour.
alter table api_tokens
    drop constraint api_tokens_scope_check,
    add constraint api_tokens_scope_check check (scope in ('read', 'write', 'admin')),
    -- When the user signed in to create this token for a program they use themselves; null for other tokens.
    add signed_in_at timestamptz;
