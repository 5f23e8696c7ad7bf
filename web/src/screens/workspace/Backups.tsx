// Backups of a project, below its snapshots: create, restore as a new project, verify, cancel and delete.
import { ActionIcon, Alert, Badge, Button, Group, Loader, Menu, Modal, Stack, Text, TextInput, Title } from "@mantine/core";
import { notifications } from "@mantine/notifications";
import { IconCloudUpload, IconDots, IconShieldCheck, IconTrash, IconX } from "@tabler/icons-react";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { type FormEvent, useState } from "react";
import { type ProjectInBranch, type Schemas, api, data, errorMessage } from "../../api/client";
import { backups as backupsQuery, notifyError, useHasBackups } from "../../api/queries";
import { hasRole } from "../../logic/role";
import { formatBytes, formatDateTime, timeAgo } from "../../logic/time";
import { Confirm, type Confirmation } from "../../shell/Confirm";

type Backup = Schemas["Backup"];

const progressLabels: Partial<Record<Backup["state"], string>> = { queued: "Waiting…", running: "Backing up…", deleting: "Deleting…" };

export function Backups({ project }: { project: ProjectInBranch }) {
  const hasBackups = useHasBackups(project.region);
  return hasBackups ? <BackupList project={project} /> : null;
}

function BackupList({ project }: { project: ProjectInBranch }) {
  const queries = useQueryClient();
  const found = useQuery(backupsQuery(project.reference));
  const [restoring, setRestoring] = useState<Backup>();
  const [confirmation, setConfirmation] = useState<Confirmation>();
  const settled = {
    onSettled: () => queries.invalidateQueries({ queryKey: backupsQuery(project.reference).queryKey }),
    onError: notifyError,
  };
  const create = useMutation({
    mutationFn: () => data(api.POST("/api/projects/{project}/backups", { params: { path: { project: project.reference } } })),
    ...settled,
  });
  const verify = useMutation({
    mutationFn: (backup: string) => data(api.POST("/api/backups/{backup}/verify", { params: { path: { backup } } })),
    ...settled,
  });
  const cancel = useMutation({
    mutationFn: (backup: string) => data(api.POST("/api/backups/{backup}/cancel", { params: { path: { backup } } })),
    ...settled,
  });
  const remove = useMutation({
    mutationFn: (backup: string) => data(api.DELETE("/api/backups/{backup}", { params: { path: { backup } } })),
    ...settled,
  });
  const confirmDelete = (backup: Backup) =>
    setConfirmation({
      title: "Delete backup?",
      text: `The backup of ${formatDateTime(backup.createdAt)} can no longer be restored.`,
      action: "Delete",
      run: () => remove.mutate(backup.id),
    });
  // Backups belong to the owner of the project; others see them.
  const isOwner = hasRole(project.role, "owner");
  return (
    <section aria-label="Backups" style={{ marginTop: 28 }}>
      <Confirm confirmation={confirmation} close={() => setConfirmation(undefined)} />
      {restoring && <RestoreBackup backup={restoring} close={() => setRestoring(undefined)} />}
      <Group justify="space-between" mb="md" align="flex-start" wrap="nowrap">
        <div>
          <Title order={2} mb={4}>
            Backups
          </Title>
          <Text size="sm" c="dimmed">
            A backup is a copy in the server's repository, outside of the project. It becomes a new project again.
          </Text>
        </div>
        {hasRole(project.role, "editor") && (
          <Button size="sm" leftSection={<IconCloudUpload size={15} />} loading={create.isPending} onClick={() => create.mutate()} style={{ flex: "none" }}>
            Back up now
          </Button>
        )}
      </Group>
      {found.isError && (
        <Alert color="red" py="xs" mb="md">
          {errorMessage(found.error)}
        </Alert>
      )}
      {found.data?.length === 0 && (
        <div className="panel empty">
          <Text size="sm">No backups yet.</Text>
        </div>
      )}
      {found.data && found.data.length > 0 && (
        <div className="timeline">
          <ul className="panel" aria-label="Backups">
            {found.data.map((backup) => (
              <li key={backup.id} data-backup={backup.id} data-state={backup.state}>
                <BackupRow
                  backup={backup}
                  isOwner={isOwner}
                  restore={() => setRestoring(backup)}
                  verify={() => verify.mutate(backup.id)}
                  cancel={() => cancel.mutate(backup.id)}
                  remove={() => confirmDelete(backup)}
                />
              </li>
            ))}
          </ul>
        </div>
      )}
    </section>
  );
}

interface RowProps {
  backup: Backup;
  isOwner: boolean;
  restore: () => void;
  verify: () => void;
  cancel: () => void;
  remove: () => void;
}

function BackupRow({ backup, isOwner, restore, verify, cancel, remove }: RowProps) {
  const title = formatDateTime(backup.createdAt);
  const ready = backup.state === "ready";
  const progress = backup.verifying ? "Verifying…" : progressLabels[backup.state];
  const damaged = (backup.verification?.problems.length ?? 0) > 0;
  return (
    <div className="snapshot">
      <div className="grow">
        <Group gap={8} wrap="nowrap">
          <Text size="sm" fw={500} className="name">
            {title}
          </Text>
          {(backup.state === "failed" || damaged) && (
            <Badge variant="light" size="sm" color="red" style={{ flex: "none" }}>
              {damaged ? "Damaged" : "Failed"}
            </Badge>
          )}
          {backup.state === "canceled" && (
            <Badge variant="light" size="sm" color="gray" style={{ flex: "none" }}>
              Canceled
            </Badge>
          )}
        </Group>
        <Text size="xs" c="dimmed" className="details">
          <time dateTime={backup.createdAt} title={title}>
            {timeAgo(backup.createdAt)}
          </time>
          {backup.branch !== "main" && <span>{backup.branch}</span>}
          {backup.createdBy && <span>{backup.createdBy}</span>}
          {backup.bytes > 0 && <span>{formatBytes(backup.bytes)}</span>}
          {ready && <span title="By which the repository grew">{formatBytes(backup.addedBytes)} added</span>}
          {backup.verification && !damaged && <span>Verified {timeAgo(backup.verification.at)}</span>}
        </Text>
        {backup.error && (
          <Text size="xs" c="var(--mantine-color-error)" style={{ overflowWrap: "anywhere" }}>
            {backup.error.message}
          </Text>
        )}
      </div>
      {progress && (
        <Group gap={6} c="dimmed" role="status" wrap="nowrap">
          <Loader size={12} color="var(--mantine-color-dimmed)" />
          <Text size="xs">{progress}</Text>
        </Group>
      )}
      {ready && isOwner && (
        <Button variant="default" size="compact-sm" aria-label={`Restore the backup of ${title}`} onClick={restore}>
          Restore
        </Button>
      )}
      {isOwner && backup.state !== "deleting" && (
        <Menu position="bottom-end">
          <Menu.Target>
            <ActionIcon aria-label={`Actions for the backup of ${title}`}>
              <IconDots size={16} />
            </ActionIcon>
          </Menu.Target>
          <Menu.Dropdown>
            {ready && (
              <Menu.Item leftSection={<IconShieldCheck size={14} />} disabled={backup.verifying} onClick={verify}>
                Verify
              </Menu.Item>
            )}
            {(backup.state === "queued" || backup.state === "running") && (
              <Menu.Item leftSection={<IconX size={14} />} onClick={cancel}>
                Cancel
              </Menu.Item>
            )}
            <Menu.Item leftSection={<IconTrash size={14} />} color="red" onClick={remove}>
              Delete
            </Menu.Item>
          </Menu.Dropdown>
        </Menu>
      )}
    </div>
  );
}

/** Dialog that names the new project. */
function RestoreBackup({ backup, close }: { backup: Backup; close: () => void }) {
  const queries = useQueryClient();
  const [name, setName] = useState(`${backup.projectName}-restored`);
  const restore = useMutation({
    mutationFn: () => data(api.POST("/api/backups/{backup}/restore", { params: { path: { backup: backup.id } }, body: { name } })),
    onSuccess: (project) => {
      close();
      notifications.show({ message: `Restoring ${project.name}…` });
    },
    onSettled: () => queries.invalidateQueries({ queryKey: ["projects"] }),
  });
  const submit = (event: FormEvent) => {
    event.preventDefault();
    restore.mutate();
  };
  return (
    <Modal opened onClose={close} title="Restore as a new project">
      <form onSubmit={submit}>
        <Stack gap="sm">
          <Text size="sm">
            A new project gets the settings, variables, files and databases of {formatDateTime(backup.createdAt)}. {backup.projectName} does not change.
          </Text>
          {restore.isError && (
            <Alert color="red" role="alert" py="xs">
              {errorMessage(restore.error)}
            </Alert>
          )}
          <TextInput data-autofocus label="Project name" value={name} maxLength={63} autoComplete="off" onChange={(event) => setName(event.currentTarget.value)} />
          <Group justify="flex-end">
            <Button variant="default" onClick={close}>
              Cancel
            </Button>
            <Button type="submit" loading={restore.isPending}>
              Restore
            </Button>
          </Group>
        </Stack>
      </form>
    </Modal>
  );
}
