// Schedule of a project's snapshots: one line, and for admins a dialog that changes it.
import { Anchor, Button, Group, Modal, NumberInput, Stack, Text } from "@mantine/core";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { type FormEvent, useState } from "react";
import { type ProjectInBranch, type Schemas, api, data } from "../../api/client";
import { notifyError, snapshotSchedule } from "../../api/queries";
import { hasRole } from "../../logic/role";
import { scheduleText } from "../../logic/snapshots";

export function SnapshotSchedule({ project }: { project: ProjectInBranch }) {
  const found = useQuery(snapshotSchedule(project.id));
  const [editing, setEditing] = useState(false);
  if (!found.data) return null;
  return (
    <Stack gap={2} mb="md">
      <Group gap={8}>
        <Text size="sm" c="dimmed">
          {scheduleText(found.data)}
        </Text>
        {hasRole(project.role, "admin") && (
          <Anchor component="button" type="button" size="sm" onClick={() => setEditing(true)}>
            Edit schedule
          </Anchor>
        )}
      </Group>
      {found.data.refused && (
        <Text size="xs" c="var(--mantine-color-error)">
          The last scheduled snapshot was not taken: {found.data.refused}
        </Text>
      )}
      <Modal opened={editing} onClose={() => setEditing(false)} title="Scheduled snapshots">
        {editing && <EditSchedule project={project} schedule={found.data} close={() => setEditing(false)} />}
      </Modal>
    </Stack>
  );
}

function EditSchedule({ project, schedule, close }: { project: ProjectInBranch; schedule: Schemas["SnapshotScheduleView"]; close: () => void }) {
  const queries = useQueryClient();
  const [hourly, setHourly] = useState<number | string>(schedule.hourly);
  const [daily, setDaily] = useState<number | string>(schedule.daily);
  const save = useMutation({
    mutationFn: (body: Schemas["SnapshotSchedule"] | undefined) => {
      const params = { path: { project: project.id } };
      return data(
        body
          ? api.PUT("/api/projects/{project}/snapshot-schedule", { params, body })
          : api.DELETE("/api/projects/{project}/snapshot-schedule", { params }),
      );
    },
    onSuccess: close,
    onError: notifyError,
    onSettled: () => queries.invalidateQueries({ queryKey: snapshotSchedule(project.id).queryKey }),
  });
  const submit = (event: FormEvent) => {
    event.preventDefault();
    save.mutate({ hourly: Number(hourly), daily: Number(daily) });
  };
  return (
    <form onSubmit={submit}>
      <Stack gap="sm">
        <Text size="sm">
          A snapshot of each branch that has changed is taken every hour, or every day without hourly ones. Kept is the newest of each of the last hours and days that
          have one. With 0 and 0 none is taken.
        </Text>
        <NumberInput label="Hourly snapshots" min={0} max={48} allowDecimal={false} value={hourly} onChange={setHourly} />
        <NumberInput label="Daily snapshots" min={0} max={60} allowDecimal={false} value={daily} onChange={setDaily} />
      </Stack>
      <Group justify="flex-end" mt="md">
        {!schedule.isDefault && (
          <Button variant="default" loading={save.isPending} onClick={() => save.mutate(undefined)}>
            Reset to default
          </Button>
        )}
        <Button type="submit" loading={save.isPending}>
          Save
        </Button>
      </Group>
    </form>
  );
}
