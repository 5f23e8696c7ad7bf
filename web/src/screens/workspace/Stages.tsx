// Progress of a sandbox that is not running: stages, the failure of the last attempt, and start or retry.
import { Alert, Button, Stack, Text, Title } from "@mantine/core";
import { IconAlertTriangle, IconCheck, IconCircle, IconLoader2, IconPlayerPlay } from "@tabler/icons-react";
import { useEffect, useState } from "react";
import type { ProjectInBranch, Schemas } from "../../api/client";
import { useLifecycleAction } from "../../api/queries";
import { hasRole } from "../../logic/role";
import { stageDurations } from "../../logic/stages";
import { canStart, phaseStatus } from "../../logic/status";
import { formatDuration } from "../../logic/time";

const icons = {
  pending: <IconCircle size={16} style={{ opacity: 0.4 }} aria-label="Pending" />,
  active: <IconLoader2 size={16} className="dot-spin" aria-label="In progress" />,
  done: <IconCheck size={16} color="var(--mantine-color-teal-6)" aria-label="Done" />,
  failed: <IconAlertTriangle size={16} color="var(--mantine-color-red-6)" aria-label="Failed" />,
};

export function Stages({ project }: { project: ProjectInBranch }) {
  const lifecycle = useLifecycleAction();
  const now = useNow(250);
  const sandbox = project.sandbox;
  const phase = sandbox?.status;
  const stopped = phase === undefined || phase === "STOPPED" || phase === "TERMINATED";
  if (stopped) {
    return (
      <div className="empty">
        <Title order={2} c="var(--mantine-color-text)">
          {phase === "STOPPED" ? "Sandbox stopped" : "No sandbox"}
        </Title>
        <Text maw={360}>Files and database are kept.</Text>
        {hasRole(project.role, "editor") && (
          <Button
            leftSection={<IconPlayerPlay size={14} />}
            onClick={() => lifecycle.mutate({ id: project.reference, action: phase === "STOPPED" ? "start" : "recreate" })}
          >
            Start
          </Button>
        )}
      </div>
    );
  }
  const error = sandbox?.error;
  const stages = sandbox?.stages ?? [];
  const durations = stageDurations(stages, sandbox?.createdAt ?? project.createdAt, now);
  return (
    <div className="body" tabIndex={0}>
      <Stack p="lg" gap="md" maw={560} w="100%" mx="auto" mt="4vh">
        <Title order={2}>{phase === "ERROR" ? "Sandbox failed to start" : `${phaseStatus(phase).label} ${project.name}`}</Title>
        <ol className="stages panel" aria-label="Stages">
          {stages.map((stage, index) => (
            <li key={stage.stage} data-stage={stage.stage} data-state={stage.state}>
              {icons[stage.state]}
              <span>{stage.title}</span>
              <Text size="xs" c="dimmed" ff="monospace">
                {durations[index] === undefined ? "" : formatDuration(durations[index])}
              </Text>
              {stage.message && stage.message !== error?.message && <span className="more">{stage.message}</span>}
            </li>
          ))}
        </ol>
        {error && <AttemptFailure error={error} now={now} />}
        {(error || canStart(phase)) && phase !== "STOPPING" && hasRole(project.role, "editor") && (
          <div>
            <Button onClick={() => lifecycle.mutate({ id: project.reference, action: "restart" })}>Retry now</Button>
          </div>
        )}
      </Stack>
    </div>
  );
}

function AttemptFailure({ error, now }: { error: Schemas["SandboxError"]; now: number }) {
  const next = error.nextAttemptAt ? new Date(error.nextAttemptAt).getTime() - now : undefined;
  return (
    <Alert color="red" role="alert" title={`Attempt ${error.attempts} failed`} py="xs">
      {error.message}
      {error.kubernetesStatus && <div>{error.kubernetesStatus}</div>}
      {next !== undefined && (
        <Text size="xs" mt={4}>
          {next > 0 ? `Next attempt in ${formatDuration(Math.ceil(next / 1000) * 1000)}.` : "Retrying now."}
        </Text>
      )}
    </Alert>
  );
}

/** The current time, updated at an interval. */
function useNow(interval: number): number {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), interval);
    return () => clearInterval(timer);
  }, [interval]);
  return now;
}
