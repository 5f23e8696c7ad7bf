// A sandbox that does not run: how far it is, what failed and why, and the way on.
import { Alert, Button, Stack, Text, Title } from "@mantine/core";
import { IconAlertTriangle, IconCheck, IconCircle, IconLoader2, IconPlayerPlay } from "@tabler/icons-react";
import { useEffect, useState } from "react";
import type { Project, Schemas } from "../../api/client";
import { useWish } from "../../api/queries";
import { lengths } from "../../logic/stages";
import { may } from "../../logic/role";
import { canStart, look } from "../../logic/status";
import { took } from "../../logic/time";

const icons = {
  pending: <IconCircle size={16} style={{ opacity: 0.4 }} aria-label="waits" />,
  active: <IconLoader2 size={16} className="dot-spin" aria-label="under way" />,
  done: <IconCheck size={16} color="var(--mantine-color-teal-6)" aria-label="done" />,
  failed: <IconAlertTriangle size={16} color="var(--mantine-color-red-6)" aria-label="failed" />,
};

export function Stages({ project }: { project: Project }) {
  const wish = useWish();
  const now = useNow(250);
  const sandbox = project.sandbox;
  const phase = sandbox?.status;
  const rests = phase === undefined || phase === "STOPPED" || phase === "TERMINATED";
  if (rests) {
    return (
      <div className="empty">
        <Title order={2} c="var(--mantine-color-text)">
          {phase === "STOPPED" ? "The sandbox is stopped" : "There is no sandbox"}
        </Title>
        <Text maw={360}>Its files and its database are kept.</Text>
        {may(project.role, "editor") && (
          <Button
            leftSection={<IconPlayerPlay size={14} />}
            onClick={() => wish.mutate({ id: project.id, wish: phase === "STOPPED" ? "start" : "remake" })}
          >
            Start
          </Button>
        )}
      </div>
    );
  }
  const error = sandbox?.error;
  const stages = sandbox?.stages ?? [];
  const long = lengths(stages, sandbox?.createdAt ?? project.createdAt, now);
  return (
    <div className="body" tabIndex={0}>
      <Stack p="lg" gap="md" maw={560} w="100%" mx="auto" mt="4vh">
        <Title order={2}>{phase === "ERROR" ? "It could not be made ready" : `${look(phase).word} ${project.name}`}</Title>
        <ol className="stages panel" aria-label="Stages">
          {stages.map((stage, index) => (
            <li key={stage.stage} data-stage={stage.stage} data-state={stage.state}>
              {icons[stage.state]}
              <span>{stage.title}</span>
              <Text size="xs" c="dimmed" ff="monospace">
                {long[index] === undefined ? "" : took(long[index])}
              </Text>
              {stage.message && stage.message !== error?.message && <span className="more">{stage.message}</span>}
            </li>
          ))}
        </ol>
        {error && <Trouble error={error} now={now} />}
        {(error || canStart(phase)) && phase !== "STOPPING" && may(project.role, "editor") && (
          <div>
            <Button onClick={() => wish.mutate({ id: project.id, wish: "restart" })}>Try again now</Button>
          </div>
        )}
      </Stack>
    </div>
  );
}

function Trouble({ error, now }: { error: Schemas["SandboxError"]; now: number }) {
  const next = error.nextAttemptAt ? new Date(error.nextAttemptAt).getTime() - now : undefined;
  return (
    <Alert color="red" role="alert" title={`Attempt ${error.attempts} failed`} py="xs">
      {error.message}
      {error.kubernetesStatus && <div>{error.kubernetesStatus}</div>}
      {next !== undefined && (
        <Text size="xs" mt={4}>
          {next > 0 ? `The next attempt is in ${took(Math.ceil(next / 1000) * 1000)}.` : "The next attempt begins."}
        </Text>
      )}
    </Alert>
  );
}

/** The time, again and again, for what shows how long something takes. */
function useNow(every: number): number {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), every);
    return () => clearInterval(timer);
  }, [every]);
  return now;
}
