// Dialog before a restore: what it changes, and that the present state is kept as a snapshot.
import { Button, Group, List, Loader, Modal, Stack, Text } from "@mantine/core";
import { notifications } from "@mantine/notifications";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useRef } from "react";
import { type ProjectInBranch, api, data, errorMessage } from "../../api/client";
import { notifyError, snapshotDiff, snapshots } from "../../api/queries";
import { type Snapshot, restoreEffects, snapshotTitle } from "../../logic/snapshots";
import { formatDateTime, timeAgo } from "../../logic/time";
import { ChangeList } from "./SnapshotChanges";
import { SnapshotTables } from "./SnapshotTables";

export function RestoreSnapshot({ project, snapshot, close }: { project: ProjectInBranch; snapshot: Snapshot | undefined; close: () => void }) {
  const queries = useQueryClient();
  const last = useRef(snapshot);
  if (snapshot) last.current = snapshot;
  // While the dialog fades out its text stays.
  const shown = snapshot ?? last.current;
  const restore = useMutation({
    mutationFn: (id: string) =>
      data(api.POST("/api/projects/{project}/snapshots/{snapshot}/restore", { params: { path: { project: project.reference, snapshot: id } } })),
    onSuccess: () => {
      close();
      notifications.show({ message: `Restoring ${shown ? snapshotTitle(shown) : "the snapshot"}…` });
    },
    onError: notifyError,
    onSettled: () =>
      Promise.all([queries.invalidateQueries({ queryKey: ["projects"] }), queries.invalidateQueries({ queryKey: snapshots(project.reference).queryKey })]),
  });
  const running = project.sandbox?.status === "RUNNING" || project.sandbox?.status === "UPDATING";
  return (
    <Modal opened={snapshot !== undefined} onClose={close} title="Restore snapshot?" size="lg">
      {shown && (
        <Stack gap="sm">
          <Text size="sm" style={{ overflowWrap: "anywhere" }}>
            {shown.database ? "Files and database" : "The files"} of {project.name} return to <b>{snapshotTitle(shown)}</b> (
            {shown.name ? `${formatDateTime(shown.createdAt)}, ` : ""}
            {timeAgo(shown.createdAt)}).{!shown.database && " The snapshot has no database, so the database does not change."}
            {running && " The sandbox restarts, which ends its terminals and processes."}
          </Text>
          <Changes project={project} snapshot={shown} />
          <SnapshotTables key={shown.id} project={project} snapshot={shown} />
          <Text size="sm" c="dimmed">
            A snapshot of the current state is created first, so that you can undo the restore.
          </Text>
        </Stack>
      )}
      <Group justify="flex-end" mt="md">
        <Button variant="default" data-autofocus onClick={close}>
          Cancel
        </Button>
        <Button loading={restore.isPending} onClick={() => shown && restore.mutate(shown.id)}>
          Restore
        </Button>
      </Group>
    </Modal>
  );
}

function Changes({ project, snapshot }: { project: ProjectInBranch; snapshot: Snapshot }) {
  const found = useQuery(snapshotDiff(project.reference, snapshot.id));
  if (found.isPending) {
    return (
      <Group gap="xs" role="status">
        <Loader size="xs" />
        <Text size="sm">Comparing files…</Text>
      </Group>
    );
  }
  if (found.isError) return <Text size="sm">The changes cannot be listed: {errorMessage(found.error)}</Text>;
  const effects = restoreEffects(found.data);
  if (effects.length === 0) {
    return <Text size="sm">No files have changed since.</Text>;
  }
  return (
    <>
      <List size="sm" aria-label="Effects">
        {effects.map((effect) => (
          <List.Item key={effect}>{effect}.</List.Item>
        ))}
      </List>
      <div className="panel">
        <ChangeList project={project} diff={found.data} />
      </div>
    </>
  );
}
