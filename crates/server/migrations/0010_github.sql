-- Accounts at GitHub. Bound to GitHub's number of an account, which never changes; logins and
-- e-mail addresses there can be given up and be taken by somebody else.
drop table identities; -- nothing was ever written there

create table github_accounts (
    github_id  bigint primary key,
    user_id    uuid not null unique references users on delete cascade,
    login      text not null,               -- as it was when they last signed in; for people to read
    token      bytea,                       -- sealed; null once GitHub has refused it
    linked_at  timestamptz not null default now()
);

-- Sign-ins that are under way. A row is taken, and so gone, when the browser comes back.
create table github_sign_ins (
    state_hash   bytea primary key,
    browser_hash bytea not null,            -- of the cookie of the browser that began it
    verifier     bytea not null,            -- PKCE's, sealed
    user_id      uuid references users on delete cascade, -- to link to; null to sign in
    expires_at   timestamptz not null
);
