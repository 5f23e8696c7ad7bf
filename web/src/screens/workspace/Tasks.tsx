// Coding agents that work by themselves: what is asked of them, their steps as they come, and what they changed.
import { Alert, Badge, Button, Group, Loader, NumberInput, Select, Stack, Text, Textarea, Title } from "@mantine/core";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { type FormEvent, useEffect, useState } from "react";
import { type Project, type Schemas, api, data, sentence } from "../../api/client";
import { follow } from "../../api/live";
import { complain, task as taskQuery, taskDiff, tasks as tasksQuery } from "../../api/queries";
import { may } from "../../logic/role";
import { isOver, step as words, titles } from "../../logic/task";
import { at, took } from "../../logic/time";
import { DiffText } from "./Git";

type Task = Schemas["Task"];
type Step = Schemas["TaskStep"];

/** Steps that are kept on the page; an agent may take thousands. */
const most = 1000;
const colors: Record<Task["state"], string> = { queued: "gray", running: "blue", succeeded: "teal", failed: "red", cancelled: "gray" };

export default function Tasks({ project }: { project: Project }) {
  const found = useQuery(tasksQuery(project.id));
  const [open, setOpen] = useState<string>();
  const works = may(project.role, "editor");
  if (found.isPending) return null;
  if (found.isError) return <div className="pad">{sentence(found.error)}</div>;
  return (
    <div className="pad">
      <Title order={2} mb="xs">
        Tasks
      </Title>
      {works && <Ask project={project} asked={setOpen} />}
      {found.data.length === 0 && (
        <Text size="sm" c="dimmed">
          No agent has worked here by itself yet. The same from a terminal: fsa task run {project.name} &quot;…&quot;
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
              <Text size="xs" c="dimmed" style={{ flex: "none" }} title={at(task.createdAt)}>
                {spent(task)}
              </Text>
            </Group>
            {open === task.id && <One project={project} id={task.id} works={works} />}
          </div>
        ))}
      </Stack>
    </div>
  );
}

function spent(task: Task): string {
  const time = task.startedAt && task.endedAt ? `${took(Date.parse(task.endedAt) - Date.parse(task.startedAt))} · ` : "";
  return `${titles[task.agent]} · ${time}$${task.cost.toFixed(4)}`;
}

/** What an agent is to do. */
function Ask({ project, asked }: { project: Project; asked: (id: string) => void }) {
  const queries = useQueryClient();
  const [prompt, setPrompt] = useState("");
  const [agent, setAgent] = useState<Task["agent"]>("claude");
  const [budget, setBudget] = useState<number | string>("");
  const ask = useMutation({
    mutationFn: () =>
      data(
        api.POST("/api/projects/{project}/tasks", {
          params: { path: { project: project.id } },
          body: { agent, prompt, budget: typeof budget === "number" ? budget : undefined },
        }),
      ),
    onSuccess: (task) => {
      setPrompt("");
      asked(task.id);
      void queries.invalidateQueries({ queryKey: tasksQuery(project.id).queryKey });
    },
    onError: complain,
  });
  const submit = (event: FormEvent) => {
    event.preventDefault();
    ask.mutate();
  };
  return (
    <form onSubmit={submit} style={{ marginBottom: 16 }}>
      <Textarea label="What is to be done" autosize minRows={2} maxRows={10} value={prompt} onChange={(event) => setPrompt(event.currentTarget.value)} />
      <Group mt="xs" align="flex-end">
        <Select
          label="Agent"
          w={150}
          allowDeselect={false}
          data={Object.entries(titles).map(([value, label]) => ({ value, label }))}
          value={agent}
          onChange={(value) => value && setAgent(value as Task["agent"])}
        />
        <NumberInput label="Budget in US dollars" placeholder="none" w={170} min={0} decimalScale={2} value={budget} onChange={setBudget} />
        <span className="grow" />
        <Button type="submit" loading={ask.isPending} disabled={prompt.trim() === ""}>
          Begin
        </Button>
      </Group>
    </form>
  );
}

/** One task: its steps as they come, and at its end what came of it. */
function One({ project, id, works }: { project: Project; id: string; works: boolean }) {
  const queries = useQueryClient();
  const found = useQuery(taskQuery(project.id, id));
  const [steps, setSteps] = useState<Step[]>([]);
  useEffect(() => {
    setSteps([]);
    return follow<Step>(
      (after) => `/api/projects/${project.id}/tasks/${id}/steps${after ? `?cursor=${after}` : ""}`,
      (step) => setSteps((steps) => [...steps, step].slice(-most)),
      () => {},
      { each: "step", last: "task" },
    );
  }, [project.id, id]);
  const cancel = useMutation({
    mutationFn: () => data(api.DELETE("/api/projects/{project}/tasks/{task}", { params: { path: { project: project.id, task: id } } })),
    onSettled: () => queries.invalidateQueries({ queryKey: ["project", project.id, "tasks"] }),
    onError: complain,
  });
  const task = found.data;
  if (!task) return found.isError ? <Text size="sm">{sentence(found.error)}</Text> : <Loader size="xs" />;
  return (
    <Stack gap="xs" mt="xs">
      <ol className="events" aria-label="Steps">
        {steps.map((step) => (
          <li key={step.sequence} data-step={step.kind}>
            <time dateTime={step.at} title={at(step.at)}>
              {new Date(step.at).toLocaleTimeString(undefined, { hourCycle: "h23" })}
            </time>
            <span style={{ overflowWrap: "anywhere", whiteSpace: "pre-wrap" }}>{words(step)}</span>
          </li>
        ))}
      </ol>
      {!isOver(task.state) && works && (
        <Group>
          <Button variant="default" loading={cancel.isPending} onClick={() => cancel.mutate()}>
            Cancel the task
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
      {isOver(task.state) && <Changed project={project} task={task} />}
    </Stack>
  );
}

function Changed({ project, task }: { project: Project; task: Task }) {
  const found = useQuery(taskDiff(project.id, task.id));
  return (
    <>
      <Text size="sm" c="dimmed">
        {task.changedFiles.length === 0 ? "No file was changed." : `Changed: ${task.changedFiles.join(", ")}`}
      </Text>
      {found.data?.diff && <DiffText diff={found.data.diff} truncated={found.data.truncated} />}
      {found.data?.reason && task.changedFiles.length > 0 && (
        <Text size="sm" c="dimmed">
          {found.data.reason}
        </Text>
      )}
      {found.isError && <Text size="sm">{sentence(found.error)}</Text>}
    </>
  );
}
