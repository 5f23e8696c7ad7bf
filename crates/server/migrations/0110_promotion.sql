-- Promotion of a branch: main gets the branch's state by a restore from a snapshot of the branch (cause `branch`). The
-- state of main before is kept as a snapshot of the cause `before-promote`, which names the branch.
alter table snapshots drop constraint snapshots_cause_check;
alter table snapshots add constraint snapshots_cause_check
    check (cause in ('manual', 'schedule', 'agent', 'before-restore', 'before-promote', 'backup', 'branch'));
alter table snapshots add column promoted_branch text;
