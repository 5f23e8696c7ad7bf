-- Tokens at GitHub that expire (those of a GitHub App, or where an OAuth App asks for it) come with
-- another that gets the next. It works once.
alter table github_accounts
    add column refresh_token bytea,             -- sealed
    add column token_expires_at timestamptz;
