// Git in the project's folder: what has changed, what goes into the next commit, and the exchange with origin.
import { ActionIcon, Alert, Button, Checkbox, Code, Group, Modal, Stack, Text, TextInput, Textarea, Title, Tooltip } from "@mantine/core";
import { IconArrowDown, IconArrowUp, IconBrandGithub, IconRefresh } from "@tabler/icons-react";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { type FormEvent, useState } from "react";
import { ApiError, type Project, type Schemas, api, data, sentence } from "../../api/client";
import { complain, gitDiff, gitStatus } from "../../api/queries";
import { lines } from "../../logic/diff";

type GitFile = Schemas["GitFile"];
type Act = "commit" | "push" | "pull" | "abort" | "publish" | "stage" | "unstage";
type Asked = { act: Act; body?: object };

/** What a program must be told from a refusal; its words are for people. */
const nameOf = (error: unknown) => (error instanceof ApiError ? error.body?.details.name : undefined);

export default function Git({ project }: { project: Project }) {
  const queries = useQueryClient();
  const status = useQuery(gitStatus(project.id));
  const [shown, setShown] = useState<{ path: string; staged: boolean }>();
  const [message, setMessage] = useState("");
  const [publishing, setPublishing] = useState(false);
  const act = useMutation({
    mutationFn: ({ act, body }: Asked) => {
      const params = { path: { project: project.id } };
      switch (act) {
        case "stage":
        case "unstage":
          return data(api.POST(`/api/projects/{project}/git/${act}`, { params, body: body as Schemas["GitPaths"] }));
        case "commit":
          return data(api.POST("/api/projects/{project}/git/commit", { params, body: body as Schemas["GitCommit"] }));
        case "publish":
          return data(api.POST("/api/projects/{project}/git/publish", { params, body: body as Schemas["GitPublish"] }));
        default:
          return data(api.POST(`/api/projects/{project}/git/${act}`, { params }));
      }
    },
    onSuccess: (after, { act }) => {
      queries.setQueryData(gitStatus(project.id).queryKey, after);
      if (act === "commit") setMessage("");
      if (act === "publish") setPublishing(false);
    },
    onError: (error, { act }) => {
      // A conflict is a state of the files, which the panel shows itself.
      if (nameOf(error) !== "MergeConflict" || act !== "pull") complain(error);
      void queries.invalidateQueries({ queryKey: gitStatus(project.id).queryKey });
    },
    onSettled: () => queries.invalidateQueries({ queryKey: ["git", project.id, "diff"] }),
  });
  const may = project.role !== "viewer";

  if (status.isPending) return null;
  if (status.isError) {
    const none = nameOf(status.error) === "NoRepository";
    return (
      <div className="pad">
        <Title order={2} mb="xs">
          Git
        </Title>
        <Text size="sm" mb="md">
          {none ? "The project's folder is no git repository yet." : sentence(status.error)}
        </Text>
        <Group>
          {none && project.role === "owner" && <PublishButton onClick={() => setPublishing(true)} />}
          <Button variant="default" onClick={() => void status.refetch()}>
            Look again
          </Button>
        </Group>
        <Publish project={project} opened={publishing} close={() => setPublishing(false)} busy={act.isPending} publish={(body) => act.mutate({ act: "publish", body })} />
      </div>
    );
  }

  const now = status.data;
  const conflicts = now.files.filter((file) => file.conflict);
  const staged = now.files.filter((file) => file.staged);
  const commit = (event: FormEvent) => {
    event.preventDefault();
    // Nothing chosen means everything; in a conflict that is to say that all of it is decided.
    act.mutate({ act: "commit", body: { message, all: staged.length === 0 || conflicts.length > 0 } });
  };
  return (
    <div className="pad">
      <Group mb="xs" gap="xs">
        <Title order={2}>Git</Title>
        <Text size="sm" c="dimmed" className="clip" title={now.remote ?? undefined}>
          {now.branch ?? "no branch"}
          {now.upstream ? ` · ${now.ahead} ahead, ${now.behind} behind ${now.upstream}` : ""}
        </Text>
        <span className="grow" />
        <Tooltip label="Look again">
          <ActionIcon aria-label="Look again" onClick={() => void status.refetch()} loading={status.isFetching}>
            <IconRefresh size={16} />
          </ActionIcon>
        </Tooltip>
        {may && now.remote && (
          <>
            <Button variant="default" leftSection={<IconArrowDown size={14} />} disabled={act.isPending || now.merging} onClick={() => act.mutate({ act: "pull" })}>
              Pull
            </Button>
            <Button variant="default" leftSection={<IconArrowUp size={14} />} disabled={act.isPending || now.merging} onClick={() => act.mutate({ act: "push" })}>
              Push
            </Button>
          </>
        )}
        {project.role === "owner" && !now.remote && <PublishButton onClick={() => setPublishing(true)} />}
      </Group>
      {now.merging && (
        <Alert color="yellow" py="xs" mb="md" title={conflicts.length > 0 ? "Both sides changed the same lines" : "A merge is under way"}>
          <Text size="sm">
            {conflicts.length > 0
              ? "Open these files, decide between the marked lines, and commit. Or abort the merge, and everything is as before the pull."
              : "Commit it, or abort it."}
          </Text>
          {may && (
            <Button mt="xs" variant="default" disabled={act.isPending} onClick={() => act.mutate({ act: "abort" })}>
              Abort the merge
            </Button>
          )}
        </Alert>
      )}
      {now.files.length === 0 && (
        <Text size="sm" mb="md">
          Nothing has changed since the last commit.
        </Text>
      )}
      {now.files.length > 0 && (
        <div className="panel" style={{ marginBottom: 16 }} role="list" aria-label="Changed files">
          {now.files.map((file) => (
            <File
              key={file.path}
              file={file}
              disabled={!may || act.isPending}
              shown={shown?.path === file.path}
              show={() => setShown(shown?.path === file.path ? undefined : { path: file.path, staged: !!file.staged && !file.unstaged })}
              stage={(on) => act.mutate({ act: on ? "stage" : "unstage", body: { paths: [file.path] } })}
            />
          ))}
        </div>
      )}
      {now.truncated && (
        <Text size="sm" mb="md">
          There are more files than are shown. A line in .gitignore may be missing.
        </Text>
      )}
      {shown && now.files.some((file) => file.path === shown.path) && <Diff project={project} path={shown.path} staged={shown.staged} />}
      {may && (now.files.length > 0 || now.merging) && (
        <form onSubmit={commit}>
          <Textarea label="Message" required withAsterisk={false} autosize minRows={2} maxRows={10} value={message} onChange={(event) => setMessage(event.currentTarget.value)} />
          <Group mt="xs" justify="flex-end">
            <Button type="submit" loading={act.isPending && act.variables.act === "commit"} disabled={message.trim() === ""}>
              {conflicts.length > 0 ? "Commit as decided" : staged.length > 0 ? `Commit ${staged.length === 1 ? "1 file" : `${staged.length} files`}` : "Commit everything"}
            </Button>
          </Group>
        </form>
      )}
      <Publish project={project} opened={publishing} close={() => setPublishing(false)} busy={act.isPending} publish={(body) => act.mutate({ act: "publish", body })} />
    </div>
  );
}

function File({ file, disabled, shown, show, stage }: { file: GitFile; disabled: boolean; shown: boolean; show: () => void; stage: (on: boolean) => void }) {
  const word = file.conflict ? "conflict" : (file.unstaged ?? file.staged);
  return (
    <Group role="listitem" gap="xs" px="xs" py={4} wrap="nowrap">
      <Checkbox
        size="xs"
        aria-label={`Stage ${file.path}`}
        checked={!!file.staged && !file.unstaged}
        indeterminate={!!file.staged && !!file.unstaged}
        disabled={disabled}
        onChange={(event) => stage(event.currentTarget.checked)}
      />
      <Button variant="subtle" size="compact-sm" color={file.conflict ? "red" : undefined} className="clip grow" justify="flex-start" aria-expanded={shown} onClick={show} ff="monospace">
        {file.from ? `${file.from} → ${file.path}` : file.path}
      </Button>
      <Text size="xs" c={file.conflict ? "red" : "dimmed"}>
        {word}
      </Text>
    </Group>
  );
}

function Diff({ project, path, staged }: { project: Project; path: string; staged: boolean }) {
  const found = useQuery(gitDiff(project.id, path, staged));
  if (found.isError) {
    return (
      <Alert color="red" py="xs" mb="md">
        {sentence(found.error)}
      </Alert>
    );
  }
  return <DiffText diff={found.data?.diff ?? ""} truncated={found.data?.truncated ?? false} />;
}

/** A unified diff in colors. */
export function DiffText({ diff, truncated }: { diff: string; truncated: boolean }) {
  const { shown, more } = lines(diff);
  return (
    <div style={{ marginBottom: 16 }}>
      <Code block role="region" aria-label="Diff" tabIndex={0} style={{ maxHeight: "50vh", overflow: "auto" }}>
        {shown.map((line, number) => (
          <div key={number} data-line={line.kind} style={{ color: line.color }}>
            {line.text || " "}
          </div>
        ))}
      </Code>
      {(more || truncated) && (
        <Text size="xs" c="dimmed">
          It is longer than is shown.
        </Text>
      )}
    </div>
  );
}

function PublishButton({ onClick }: { onClick: () => void }) {
  return (
    <Button variant="default" leftSection={<IconBrandGithub size={14} />} onClick={onClick}>
      Publish to GitHub
    </Button>
  );
}

function Publish({ project, opened, close, busy, publish }: { project: Project; opened: boolean; close: () => void; busy: boolean; publish: (body: Schemas["GitPublish"]) => void }) {
  const submit = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    const fields = new FormData(event.currentTarget);
    publish({ name: String(fields.get("name")).trim(), public: fields.get("public") === "on" });
  };
  return (
    <Modal opened={opened} onClose={close} title="Publish to GitHub">
      <form onSubmit={submit}>
        <Stack gap="sm">
          <Text size="sm">
            Makes a repository of your account there from this project, and pushes to it. What is not committed yet is committed first, where nothing
            is; without a .gitignore, one is written that leaves out .env files.
          </Text>
          <TextInput name="name" label="Repository" defaultValue={project.name} required withAsterisk={false} pattern="[A-Za-z0-9_\-][A-Za-z0-9_.\-]*" data-autofocus />
          <Checkbox name="public" label="Everybody may see it" />
          <Group justify="flex-end">
            <Button variant="default" onClick={close}>
              Cancel
            </Button>
            <Button type="submit" loading={busy}>
              Publish
            </Button>
          </Group>
        </Stack>
      </form>
    </Modal>
  );
}
