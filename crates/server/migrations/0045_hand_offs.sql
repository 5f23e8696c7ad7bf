-- Hand-offs to hosts that an ingress controller of others serves, once they were used: such a host cannot
-- bind one to the browser that asked, so every replica has to know.

create table used_hand_offs (
    id    uuid primary key,
    until timestamptz not null -- afterwards the hand-off holds no more, and its row may go
);
