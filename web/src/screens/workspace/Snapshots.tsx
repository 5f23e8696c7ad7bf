// Snapshots view: a timeline of the project's snapshots, newest first, with create, compare, restore and delete.
import { ActionIcon, Alert, Badge, Button, Group, Loader, Menu, Text, TextInput, Title, Tooltip } from "@mantine/core";
import { IconCamera, IconDots, IconGitCompare, IconHistory, IconTrash } from "@tabler/icons-react";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { type FormEvent, useState } from "react";
import { type ProjectInBranch, api, data, errorMessage } from "../../api/client";
import { notifyError, snapshots as snapshotsQuery, useCreateSnapshot, useHasSnapshots } from "../../api/queries";
import { hasRole } from "../../logic/role";
import { type Snapshot, byDay, snapshotCause, snapshotTitle } from "../../logic/snapshots";
import { formatBytes, formatDateTime, timeAgo } from "../../logic/time";
import { Confirm, type Confirmation } from "../../shell/Confirm";
import { Backups } from "./Backups";
import { RestoreSnapshot } from "./RestoreSnapshot";
import { SnapshotChanges } from "./SnapshotChanges";
import { SnapshotSchedule } from "./SnapshotSchedule";

export default function Snapshots({ project }: { project: ProjectInBranch }) {
  const queries = useQueryClient();
  const found = useQuery(snapshotsQuery(project.reference));
  const [restoring, setRestoring] = useState<Snapshot>();
  const [confirmation, setConfirmation] = useState<Confirmation>();
  const [compared, setCompared] = useState<string>();
  const canEdit = hasRole(project.role, "editor");
  const hasSnapshots = useHasSnapshots(project.region);
  const remove = useMutation({
    mutationFn: (snapshot: string) =>
      data(api.DELETE("/api/projects/{project}/snapshots/{snapshot}", { params: { path: { project: project.reference, snapshot } } })),
    onSettled: () => queries.invalidateQueries({ queryKey: snapshotsQuery(project.reference).queryKey }),
    onError: notifyError,
  });
  const confirmDelete = (snapshot: Snapshot) =>
    setConfirmation({
      title: "Delete snapshot?",
      text: `${snapshotTitle(snapshot)} can no longer be restored. The project's files and database do not change.`,
      action: "Delete",
      run: () => remove.mutate(snapshot.id),
    });
  if (found.isPending) return null;
  if (hasSnapshots === false && !found.data?.length) {
    return (
      <div className="empty">
        <Text size="sm">Projects in the region {project.region} have no snapshots.</Text>
      </div>
    );
  }
  return (
    <div className="pad">
      <Confirm confirmation={confirmation} close={() => setConfirmation(undefined)} />
      <RestoreSnapshot project={project} snapshot={restoring} close={() => setRestoring(undefined)} />
      <Title order={2} mb={4}>
        Snapshots
      </Title>
      <Text size="sm" c="dimmed" mb="md">
        A snapshot keeps the project's files, and its database if it lists one. Restore it to undo later changes.
      </Text>
      {found.isError && (
        <Alert color="red" py="xs" mb="md">
          {errorMessage(found.error)}
        </Alert>
      )}
      {hasSnapshots && <SnapshotSchedule project={project} />}
      {canEdit && found.data && <CreateSnapshot project={project} />}
      {found.data?.length === 0 && (
        <div className="panel empty">
          <IconHistory size={22} aria-hidden />
          <Text size="sm">No snapshots yet.</Text>
          {canEdit && <Text size="xs">Create one before a risky change, such as an upgrade or a migration.</Text>}
        </div>
      )}
      {byDay(found.data ?? []).map(({ day, snapshots }) => (
        <section key={day} className="timeline" aria-label={day}>
          <Title order={3} className="day">
            {day}
          </Title>
          <ul className="panel" aria-label={`Snapshots of ${day}`}>
            {snapshots.map((snapshot) => (
              <li key={snapshot.id} data-snapshot={snapshot.id} data-state={snapshot.state}>
                <SnapshotRow
                  project={project}
                  snapshot={snapshot}
                  canEdit={canEdit}
                  compared={compared === snapshot.id}
                  compare={() => setCompared(compared === snapshot.id ? undefined : snapshot.id)}
                  restore={() => setRestoring(snapshot)}
                  remove={() => confirmDelete(snapshot)}
                />
              </li>
            ))}
          </ul>
        </section>
      ))}
      <Backups project={project} />
    </div>
  );
}

function CreateSnapshot({ project }: { project: ProjectInBranch }) {
  const create = useCreateSnapshot();
  const submit = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    const form = event.currentTarget;
    const name = String(new FormData(form).get("name")).trim();
    create.mutate({ project: project.reference, name: name || undefined }, { onSuccess: () => form.reset() });
  };
  return (
    <form onSubmit={submit} style={{ marginBottom: 20 }}>
      <Group align="flex-end" wrap="nowrap" gap="xs">
        <TextInput name="name" label="Name" placeholder="Optional" maxLength={100} className="grow" autoComplete="off" />
        <Button type="submit" size="sm" leftSection={<IconCamera size={15} />} loading={create.isPending}>
          Create snapshot
        </Button>
      </Group>
    </form>
  );
}

interface RowProps {
  project: ProjectInBranch;
  snapshot: Snapshot;
  canEdit: boolean;
  compared: boolean;
  compare: () => void;
  restore: () => void;
  remove: () => void;
}

function SnapshotRow({ project, snapshot, canEdit, compared, compare, restore, remove }: RowProps) {
  const title = snapshotTitle(snapshot);
  const ready = snapshot.state === "ready";
  const progress = { creating: "Creating…", deleting: "Deleting…", ready: undefined, failed: undefined }[snapshot.state];
  return (
    <>
      <div className="snapshot">
        <div className="grow">
          <Group gap={8} wrap="nowrap">
            <Text size="sm" fw={500} className="name" title={title}>
              {title}
            </Text>
            {snapshot.state === "failed" && (
              <Badge variant="light" size="sm" color="red" style={{ flex: "none" }}>
                Failed
              </Badge>
            )}
          </Group>
          <Text size="xs" c="dimmed" className="details">
            <span>{snapshotCause(snapshot)}</span>
            <time dateTime={snapshot.createdAt} title={formatDateTime(snapshot.createdAt)}>
              {timeAgo(snapshot.createdAt)}
            </time>
            {snapshot.createdBy && <span>{snapshot.createdBy}</span>}
            {snapshot.bytes != null && <span title="Disk space that is freed when this snapshot alone is deleted">{formatBytes(snapshot.bytes)}</span>}
            {snapshot.database && (
              <span title={`PostgreSQL ${snapshot.database.version}`}>Database {formatBytes(snapshot.database.bytes)}</span>
            )}
          </Text>
          {snapshot.error && (
            <Text size="xs" c="var(--mantine-color-error)" style={{ overflowWrap: "anywhere" }}>
              {snapshot.error.message}
            </Text>
          )}
        </div>
        {progress && (
          <Group gap={6} c="dimmed" role="status" wrap="nowrap">
            <Loader size={12} color="var(--mantine-color-dimmed)" />
            <Text size="xs">{progress}</Text>
          </Group>
        )}
        {ready && (
          <Tooltip label="Changes since this snapshot">
            <ActionIcon aria-label={`Changes since ${title}`} aria-expanded={compared} onClick={compare}>
              <IconGitCompare size={16} />
            </ActionIcon>
          </Tooltip>
        )}
        {ready && canEdit && (
          <Button variant="default" size="compact-sm" aria-label={`Restore ${title}`} onClick={restore}>
            Restore
          </Button>
        )}
        {canEdit && (ready || snapshot.state === "failed") && (
          <Menu position="bottom-end">
            <Menu.Target>
              <ActionIcon aria-label={`Actions for ${title}`}>
                <IconDots size={16} />
              </ActionIcon>
            </Menu.Target>
            <Menu.Dropdown>
              <Menu.Item leftSection={<IconTrash size={14} />} color="red" onClick={remove}>
                Delete
              </Menu.Item>
            </Menu.Dropdown>
          </Menu>
        )}
      </div>
      {compared && ready && <SnapshotChanges project={project} snapshot={snapshot} />}
    </>
  );
}
