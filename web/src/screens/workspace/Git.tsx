// Git view of the project folder: changed files, staging, commits, and pull and push.
import { ActionIcon, Alert, Button, Checkbox, Code, Group, Modal, Stack, Text, TextInput, Textarea, Title, Tooltip } from "@mantine/core";
import { IconArrowDown, IconArrowUp, IconBrandGithub, IconRefresh } from "@tabler/icons-react";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { type FormEvent, useState } from "react";
import { ApiError, type ProjectInBranch, type Schemas, api, data, errorMessage } from "../../api/client";
import { gitDiff, gitStatus, notifyError } from "../../api/queries";
import { branchKey } from "../../logic/branch";
import { parseDiff } from "../../logic/diff";

type GitFile = Schemas["GitFile"];
type Action = "commit" | "push" | "pull" | "abort" | "publish" | "stage" | "unstage";
type ActionRequest = { act: Action; body?: object };

/** The machine-readable name of an API error. */
const errorName = (error: unknown) => (error instanceof ApiError ? error.body?.details.name : undefined);

export default function Git({ project }: { project: ProjectInBranch }) {
  const queries = useQueryClient();
  const status = useQuery(gitStatus(project.reference));
  const [shown, setShown] = useState<{ path: string; staged: boolean }>();
  const [message, setMessage] = useState("");
  const [publishing, setPublishing] = useState(false);
  const act = useMutation({
    mutationFn: ({ act, body }: ActionRequest) => {
      const params = { path: { project: project.reference } };
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
      queries.setQueryData(gitStatus(project.reference).queryKey, after);
      if (act === "commit") setMessage("");
      if (act === "publish") setPublishing(false);
    },
    onError: (error, { act }) => {
      // A merge conflict is part of the status, which this view shows.
      if (errorName(error) !== "MergeConflict" || act !== "pull") notifyError(error);
      void queries.invalidateQueries({ queryKey: gitStatus(project.reference).queryKey });
    },
    onSettled: () => queries.invalidateQueries({ queryKey: ["git", ...branchKey(project.reference), "diff"] }),
  });
  const canEdit = project.role !== "viewer";

  if (status.isPending) return null;
  if (status.isError || !status.data.repository) {
    const noRepository = !status.isError;
    return (
      <div className="pad">
        <Title order={2} mb="xs">
          Git
        </Title>
        <Text size="sm" mb="md">
          {noRepository ? "Not a git repository. Run “git init” in the terminal to create one." : errorMessage(status.error)}
        </Text>
        <Group>
          {noRepository && project.role === "owner" && <PublishButton onClick={() => setPublishing(true)} />}
          <Button variant="default" onClick={() => void status.refetch()}>
            Refresh
          </Button>
        </Group>
        <Publish project={project} opened={publishing} close={() => setPublishing(false)} busy={act.isPending} publish={(body) => act.mutate({ act: "publish", body })} />
      </div>
    );
  }

  const repository = status.data;
  const conflicts = repository.files.filter((file) => file.conflict);
  const staged = repository.files.filter((file) => file.staged);
  const commit = (event: FormEvent) => {
    event.preventDefault();
    // Without staged files everything is committed. In a conflict that marks all files as resolved.
    act.mutate({ act: "commit", body: { message, all: staged.length === 0 || conflicts.length > 0 } });
  };
  return (
    <div className="pad">
      <Group mb="xs" gap="xs">
        <Title order={2}>Git</Title>
        <Text size="sm" c="dimmed" className="clip" title={repository.remote ?? undefined}>
          {repository.branch ?? "detached HEAD"}
          {repository.upstream ? ` · ${repository.ahead} ahead, ${repository.behind} behind ${repository.upstream}` : ""}
        </Text>
        <span className="grow" />
        <Tooltip label="Refresh">
          <ActionIcon aria-label="Refresh" onClick={() => void status.refetch()} loading={status.isFetching}>
            <IconRefresh size={16} />
          </ActionIcon>
        </Tooltip>
        {canEdit && repository.remote && (
          <>
            <Button variant="default" leftSection={<IconArrowDown size={14} />} disabled={act.isPending || repository.merging} onClick={() => act.mutate({ act: "pull" })}>
              Pull
            </Button>
            <Button variant="default" leftSection={<IconArrowUp size={14} />} disabled={act.isPending || repository.merging} onClick={() => act.mutate({ act: "push" })}>
              Push
            </Button>
          </>
        )}
        {project.role === "owner" && !repository.remote && <PublishButton onClick={() => setPublishing(true)} />}
      </Group>
      {repository.merging && (
        <Alert color="yellow" py="xs" mb="md" title={conflicts.length > 0 ? "Merge conflicts" : "Merge in progress"}>
          <Text size="sm">
            {conflicts.length > 0
              ? "Resolve the marked lines in these files and commit them, or abort the merge to return to the state before the pull."
              : "Commit or abort the merge."}
          </Text>
          {canEdit && (
            <Button mt="xs" variant="default" disabled={act.isPending} onClick={() => act.mutate({ act: "abort" })}>
              Abort merge
            </Button>
          )}
        </Alert>
      )}
      {repository.files.length === 0 && (
        <Text size="sm" mb="md">
          No changes since the last commit.
        </Text>
      )}
      {repository.files.length > 0 && (
        <div className="panel" style={{ marginBottom: 16 }} role="list" aria-label="Changed files">
          {repository.files.map((file) => (
            <File
              key={file.path}
              file={file}
              disabled={!canEdit || act.isPending}
              shown={shown?.path === file.path}
              show={() => setShown(shown?.path === file.path ? undefined : { path: file.path, staged: !!file.staged && !file.unstaged })}
              stage={(on) => act.mutate({ act: on ? "stage" : "unstage", body: { paths: [file.path] } })}
            />
          ))}
        </div>
      )}
      {repository.truncated && (
        <Text size="sm" mb="md">
          Not all files are shown. Check whether .gitignore lacks an entry.
        </Text>
      )}
      {shown && repository.files.some((file) => file.path === shown.path) && <Diff project={project} path={shown.path} staged={shown.staged} />}
      {canEdit && (repository.files.length > 0 || repository.merging) && (
        <form onSubmit={commit}>
          <Textarea label="Commit message" required withAsterisk={false} autosize minRows={2} maxRows={10} value={message} onChange={(event) => setMessage(event.currentTarget.value)} />
          <Group mt="xs" justify="flex-end">
            <Button type="submit" loading={act.isPending && act.variables.act === "commit"} disabled={message.trim() === ""}>
              {conflicts.length > 0 ? "Commit merge" : staged.length > 0 ? `Commit ${staged.length === 1 ? "1 file" : `${staged.length} files`}` : "Commit all"}
            </Button>
          </Group>
        </form>
      )}
      <Publish project={project} opened={publishing} close={() => setPublishing(false)} busy={act.isPending} publish={(body) => act.mutate({ act: "publish", body })} />
    </div>
  );
}

function File({ file, disabled, shown, show, stage }: { file: GitFile; disabled: boolean; shown: boolean; show: () => void; stage: (on: boolean) => void }) {
  const state = file.conflict ? "conflict" : (file.unstaged ?? file.staged);
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
        {state}
      </Text>
    </Group>
  );
}

function Diff({ project, path, staged }: { project: ProjectInBranch; path: string; staged: boolean }) {
  const found = useQuery(gitDiff(project.reference, path, staged));
  if (found.isError) {
    return (
      <Alert color="red" py="xs" mb="md">
        {errorMessage(found.error)}
      </Alert>
    );
  }
  return <DiffText diff={found.data?.diff ?? ""} truncated={found.data?.truncated ?? false} />;
}

/** A unified diff with colored lines. */
export function DiffText({ diff, truncated }: { diff: string; truncated: boolean }) {
  const { lines, truncated: tooLong } = parseDiff(diff);
  return (
    <div style={{ marginBottom: 16 }}>
      <Code block role="region" aria-label="Diff" tabIndex={0} style={{ maxHeight: "50vh", overflow: "auto" }}>
        {lines.map((line, number) => (
          <div key={number} data-line={line.kind} style={{ color: line.color }}>
            {line.text || " "}
          </div>
        ))}
      </Code>
      {(tooLong || truncated) && (
        <Text size="xs" c="dimmed">
          The rest of the diff is not shown.
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

function Publish({ project, opened, close, busy, publish }: { project: ProjectInBranch; opened: boolean; close: () => void; busy: boolean; publish: (body: Schemas["GitPublish"]) => void }) {
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
            Creates a repository in your GitHub account and pushes this project to it. If there are no commits yet, all files are committed first. If
            there is no .gitignore, one is added that excludes .env files.
          </Text>
          <TextInput name="name" label="Repository name" defaultValue={project.name} required withAsterisk={false} pattern="[A-Za-z0-9_\-][A-Za-z0-9_.\-]*" data-autofocus />
          <Checkbox name="public" label="Public repository" />
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
