-- A branch other than main is a copy of a snapshot. It is made before the branch's sandbox is started for the first time.
alter table branches
    add source_snapshot uuid,               -- of a volume of the same project; null for main
    add copied_at       timestamptz;        -- observed

-- `branch`: taken to be copied into a new branch.
alter table snapshots drop constraint snapshots_cause_check;
alter table snapshots add constraint snapshots_cause_check
    check (cause in ('manual', 'schedule', 'agent', 'before-restore', 'backup', 'branch'));
