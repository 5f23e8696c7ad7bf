// Agent tasks: the prompt, the steps of a run as they arrive, and the changed files.
import { Alert, Badge, Button, Group, Loader, NumberInput, Select, Stack, Text, Textarea, Title } from "@mantine/core";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { type FormEvent, useEffect, useState } from "react";
import { type ProjectInBranch, type Schemas, api, data, errorMessage } from "../../api/client";
import { subscribe } from "../../api/events";
import { agents, notifyError, task as taskQuery, taskDiff, tasks as tasksQuery } from "../../api/queries";
import { branchReference } from "../../logic/branch";
import { hasRole } from "../../logic/role";
import { isFinished, stepText } from "../../logic/task";
import { formatDateTime, formatDuration } from "../../logic/time";
import { DiffText } from "./Git";

type Task = Schemas["Task"];
type Step = Schemas["TaskStep"];

/** Steps that the page keeps; an agent may take thousands. */
const maxSteps = 1000;
const colors: Record<Task["state"], string> = { queued: "gray", running: "blue", succeeded: "teal", failed: "red", cancelled: "gray" };

export default function Tasks({ project }: { project: ProjectInBranch }) {
  const found = useQuery(tasksQuery(project.reference));
  const agentList = useQuery(agents).data?.items;
  const [open, setOpen] = useState<string>();
  const canEdit = hasRole(project.role, "editor");
  if (found.isPending) return null;
  if (found.isError) return <div className="pad">{errorMessage(found.error)}</div>;
  return (
    <div className="pad">
      <Title order={2} mb="xs">
        Tasks
      </Title>
      {canEdit && <NewTask project={project} onCreated={setOpen} />}
      {found.data.length === 0 && (
        <Text size="sm" c="dimmed">
          No tasks yet. Run a prompt here, or on the command line: fsa task run {branchReference(project.name, project.branch)} &quot;…&quot;
        </Text>
      )}
      <Stack gap="xs" role="list" aria-label="Tasks">
        {found.data.map((task) => (
          <div key={task.id} className="panel" role="listitem" style={{ padding: 8 }}>
            <Group gap="xs" wrap="nowrap">
              <Badge color={colors[task.state]} variant="light" style={{ flex: "none" }}>
                {task.state}
              </Badge>
              <Button
                variant="subtle"
                size="compact-sm"
                className="clip grow"
                justify="flex-start"
                aria-expanded={open === task.id}
                onClick={() => setOpen(open === task.id ? undefined : task.id)}
              >
                {task.prompt}
              </Button>
              <Text size="xs" c="dimmed" style={{ flex: "none" }} title={formatDateTime(task.createdAt)}>
                {summary(task, agentList?.find(({ name }) => name === task.agent)?.title)}
              </Text>
            </Group>
            {open === task.id && <TaskDetails project={project} id={task.id} canEdit={canEdit} />}
          </div>
        ))}
      </Stack>
    </div>
  );
}

function summary(task: Task, agent: string | undefined): string {
  const time = task.startedAt && task.endedAt ? `${formatDuration(Date.parse(task.endedAt) - Date.parse(task.startedAt))} · ` : "";
  return `${agent ?? task.agent} · ${time}$${task.cost.toFixed(4)}`;
}

/** The form that starts a task. */
function NewTask({ project, onCreated }: { project: ProjectInBranch; onCreated: (id: string) => void }) {
  const queries = useQueryClient();
  const [prompt, setPrompt] = useState("");
  const agentList = useQuery(agents).data?.items ?? [];
  const [chosen, setAgent] = useState<Task["agent"]>();
  const agent = chosen ?? agentList[0]?.name;
  const [budget, setBudget] = useState<number | string>("");
  const create = useMutation({
    mutationFn: () =>
      data(
        api.POST("/api/projects/{project}/tasks", {
          params: { path: { project: project.reference } },
          body: { agent, prompt, budget: typeof budget === "number" ? budget : undefined },
        }),
      ),
    onSuccess: (task) => {
      setPrompt("");
      onCreated(task.id);
      void queries.invalidateQueries({ queryKey: tasksQuery(project.reference).queryKey });
    },
    onError: notifyError,
  });
  const submit = (event: FormEvent) => {
    event.preventDefault();
    create.mutate();
  };
  return (
    <form onSubmit={submit} style={{ marginBottom: 16 }}>
      <Textarea label="Prompt" autosize minRows={2} maxRows={10} value={prompt} onChange={(event) => setPrompt(event.currentTarget.value)} />
      <Group mt="xs" align="flex-end">
        <Select
          label="Agent"
          w={150}
          allowDeselect={false}
          data={agentList.map(({ name, title }) => ({ value: name, label: title }))}
          value={agent ?? null}
          onChange={(value) => value && setAgent(value as Task["agent"])}
        />
        <NumberInput label="Budget (USD)" placeholder="No limit" w={170} min={0} decimalScale={2} value={budget} onChange={setBudget} />
        <span className="grow" />
        <Button type="submit" loading={create.isPending} disabled={prompt.trim() === ""}>
          Run
        </Button>
      </Group>
    </form>
  );
}

/** One task: its steps as they arrive, and its result and changed files at the end. */
function TaskDetails({ project, id, canEdit }: { project: ProjectInBranch; id: string; canEdit: boolean }) {
  const queries = useQueryClient();
  const found = useQuery(taskQuery(project.reference, id));
  const [steps, setSteps] = useState<Step[]>([]);
  useEffect(() => {
    setSteps([]);
    return subscribe<Step>(
      (after) => `/api/projects/${project.reference}/tasks/${id}/steps${after ? `?cursor=${after}` : ""}`,
      (step) => setSteps((steps) => [...steps, step].slice(-maxSteps)),
      () => {},
      { each: "step", last: "task" },
    );
  }, [project.reference, id]);
  const cancel = useMutation({
    mutationFn: () => data(api.DELETE("/api/projects/{project}/tasks/{task}", { params: { path: { project: project.reference, task: id } } })),
    onSettled: () => queries.invalidateQueries({ queryKey: tasksQuery(project.reference).queryKey }),
    onError: notifyError,
  });
  const task = found.data;
  if (!task) return found.isError ? <Text size="sm">{errorMessage(found.error)}</Text> : <Loader size="xs" />;
  return (
    <Stack gap="xs" mt="xs">
      <ol className="events" aria-label="Steps">
        {steps.map((step) => (
          <li key={step.sequence} data-step={step.kind}>
            <time dateTime={step.at} title={formatDateTime(step.at)}>
              {new Date(step.at).toLocaleTimeString(undefined, { hourCycle: "h23" })}
            </time>
            <span style={{ overflowWrap: "anywhere", whiteSpace: "pre-wrap" }}>{stepText(step)}</span>
          </li>
        ))}
      </ol>
      {!isFinished(task.state) && canEdit && (
        <Group>
          <Button variant="default" loading={cancel.isPending} onClick={() => cancel.mutate()}>
            Cancel task
          </Button>
        </Group>
      )}
      {task.error && (
        <Alert color="red" py="xs">
          {task.error}
        </Alert>
      )}
      {task.result && (
        <Text size="sm" style={{ whiteSpace: "pre-wrap", overflowWrap: "anywhere" }}>
          {task.result}
        </Text>
      )}
      {isFinished(task.state) && <ChangedFiles project={project} task={task} />}
    </Stack>
  );
}

function ChangedFiles({ project, task }: { project: ProjectInBranch; task: Task }) {
  const found = useQuery(taskDiff(project.reference, task.id));
  return (
    <>
      <Text size="sm" c="dimmed">
        {task.changedFiles.length === 0 ? "No files changed." : `Changed files: ${task.changedFiles.join(", ")}`}
      </Text>
      {found.data?.diff && <DiffText diff={found.data.diff} truncated={found.data.truncated} />}
      {found.data?.reason && task.changedFiles.length > 0 && (
        <Text size="sm" c="dimmed">
          {found.data.reason}
        </Text>
      )}
      {found.isError && <Text size="sm">{errorMessage(found.error)}</Text>}
    </>
  );
}
