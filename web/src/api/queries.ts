// Queries and mutations of the screens. Events invalidate queries by the keys given here (events.ts).
import { notifications } from "@mantine/notifications";
import { queryOptions, useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { branchKey, branchReference, parseReference } from "../logic/branch";
import { randomId } from "../logic/randomId";
import { isFinished } from "../logic/task";
import { discardUnsavedOf, projectsWithUnsaved } from "../logic/unsaved";
import { type Project, type ProjectInBranch, type Schemas, api, data, errorMessage, readApiError, send } from "./client";

/** Pages of a list that are read at most; a longer list would exceed the server's own limits. */
const maxPages = 100;

/**
 * Discards the user's unsaved texts of projects that no longer exist or are no longer shared. That a project is not in
 * the list is not enough: it may be newer, or was renamed while the pages of the list were read.
 */
function discardUnsavedOfGone(user: string, all: Project[]) {
  for (const id of projectsWithUnsaved(localStorage, user).filter((id) => !all.some((one) => one.id === id))) {
    api.GET("/api/projects/{project}", { params: { path: { project: id } } }).then(
      ({ response }) => response.status === 404 && discardUnsavedOf(localStorage, user, id),
      // The next list tries again.
      () => {},
    );
  }
}

export const me = queryOptions({ queryKey: ["me"], queryFn: () => data(api.GET("/api/me")), staleTime: 60_000 });

/** The sign-in methods of this server. */
export const signInMethods = queryOptions({
  queryKey: ["methods"],
  queryFn: () => data(api.GET("/api/auth/methods")),
  staleTime: 60_000,
});

export const projects = queryOptions({
  queryKey: ["projects"],
  queryFn: async ({ client }) => {
    const user = client.getQueryData(me.queryKey)?.id;
    const all: Project[] = [];
    let cursor = "";
    for (let page = 0; page < maxPages; page++) {
      const result = await data(api.GET("/api/projects", { params: { query: { cursor } } }));
      all.push(...result.items);
      if (!result.nextCursor) {
        if (user !== undefined) discardUnsavedOfGone(user, all);
        break;
      }
      cursor = result.nextCursor;
    }
    return all;
  },
});

/** A response's project, whose sandbox is that of `branch`. */
export const inBranch = (project: Project, branch: string): ProjectInBranch => ({ ...project, branch, reference: branchReference(project.id, branch) });

/**
 * A branch by the name or id of its project, and its name, as in the page's URL. Its key begins with `projects`, which
 * each event invalidates.
 */
export const project = (reference: string) =>
  queryOptions({
    queryKey: ["projects", reference],
    queryFn: async () =>
      inBranch(await data(api.GET("/api/projects/{project}", { params: { path: { project: reference } } })), parseReference(reference).branch),
  });

/** The branches of a project, main first. */
export const branches = (id: string) =>
  queryOptions({
    queryKey: ["project", id, "branches"],
    queryFn: async () => (await data(api.GET("/api/projects/{project}/branches", { params: { path: { project: id } } }))).items,
  });

/** Creates a branch as a copy of another one as it is, or of a snapshot. */
export function useCreateBranch() {
  const queries = useQueryClient();
  return useMutation({
    mutationFn: ({ project, ...body }: { project: string } & Schemas["CreateBranch"]) =>
      data(api.POST("/api/projects/{project}/branches", { params: { path: { project } }, body })),
    onSettled: (_data, _error, { project }) => queries.invalidateQueries({ queryKey: branches(project).queryKey }),
  });
}

/** Makes the files and the database of a branch those of main. The key lets the server recognize a repeated request. */
export function usePromoteBranch() {
  const queries = useQueryClient();
  return useMutation({
    mutationFn: ({ project, branch }: { project: string; branch: string }) =>
      data(
        api.POST("/api/projects/{project}/branches/{branch}/promote", {
          params: { path: { project, branch }, header: { "Idempotency-Key": crypto.randomUUID() } },
        }),
      ),
    onSettled: (_data, _error, { project }) =>
      Promise.all([queries.invalidateQueries({ queryKey: ["projects"] }), queries.invalidateQueries({ queryKey: branches(project).queryKey })]),
    onError: notifyError,
  });
}

export function useDeleteBranch() {
  const queries = useQueryClient();
  return useMutation({
    mutationFn: async ({ project, branch }: { project: string; branch: string }) => {
      await data(api.DELETE("/api/projects/{project}/branches/{branch}", { params: { path: { project, branch } } }));
    },
    onSettled: (_data, _error, { project }) => queries.invalidateQueries({ queryKey: branches(project).queryKey }),
    onError: notifyError,
  });
}

export const ports = (id: string) =>
  queryOptions({
    queryKey: ["project", ...branchKey(id), "ports"],
    queryFn: () => data(api.GET("/api/projects/{project}/ports", { params: { path: { project: id } } })),
  });

export const environment = (id: string, reveal: boolean) =>
  queryOptions({
    queryKey: ["project-details", ...branchKey(id), "environment", reveal],
    queryFn: () =>
      data(api.GET("/api/projects/{project}/environment", { params: { path: { project: id }, query: { reveal } } })),
    // Revealed values are not cached beyond their use.
    gcTime: reveal ? 0 : undefined,
  });

export const database = (id: string, reveal: boolean) =>
  queryOptions({
    queryKey: ["project-details", ...branchKey(id), "database", reveal],
    queryFn: () =>
      data(api.GET("/api/projects/{project}/database", { params: { path: { project: id }, query: { reveal } } })),
    gcTime: reveal ? 0 : undefined,
  });

/**
 * The sessions end with the sandbox, so the list is not kept after the terminals were closed: a start would connect to
 * a session of the previous run, which creates an empty one of that name.
 */
export const terminals = (id: string) =>
  queryOptions({
    queryKey: ["project", ...branchKey(id), "terminals"],
    gcTime: 0,
    // With a signal a request is canceled too, which otherwise would keep the list until its last retry.
    queryFn: ({ signal }) => data(api.GET("/api/projects/{project}/terminals", { params: { path: { project: id } }, signal })),
  });

export const filesUrl = (id: string, path: string, more = "") =>
  `/api/projects/${encodeURIComponent(id)}/files?path=${encodeURIComponent(path)}${more}`;

export const directory = (id: string, path: string) =>
  queryOptions({
    queryKey: ["files", ...branchKey(id), path],
    queryFn: async ({ signal }) => {
      const response = await send(filesUrl(id, path, "&list=true"), { signal });
      if (!response.ok) throw await readApiError(response);
      const { items } = (await response.json()) as Schemas["Page_FileEntry"];
      return items.sort(
        (a, b) => Number(b.kind === "directory") - Number(a.kind === "directory") || a.name.localeCompare(b.name),
      );
    },
  });

/** File changes have no events, so the status is polled while it is shown. */
export const gitStatus = (id: string) =>
  queryOptions({
    queryKey: ["git", ...branchKey(id), "status"],
    queryFn: () => data(api.GET("/api/projects/{project}/git/status", { params: { path: { project: id } } })),
    refetchInterval: 10_000,
    retry: false,
  });

export const startSuggestion = (id: string) =>
  queryOptions({
    queryKey: ["project", ...branchKey(id), "start-suggestion"],
    queryFn: () => data(api.GET("/api/projects/{project}/start-suggestion", { params: { path: { project: id } } })),
    retry: false,
  });

export const gitDiff = (id: string, path: string, staged: boolean) =>
  queryOptions({
    queryKey: ["git", ...branchKey(id), "diff", path, staged],
    queryFn: () => data(api.GET("/api/projects/{project}/git/diff", { params: { path: { project: id }, query: { path, staged } } })),
    refetchInterval: 10_000,
  });

/** Milliseconds between polls of an unfinished task: its start has no event. */
const taskPollInterval = 3_000;
const pollWhileUnfinished = (all: Schemas["Task"][] | undefined) => (all?.some((one) => !isFinished(one.state)) ? taskPollInterval : false);

/** The newest tasks of a project. */
export const tasks = (id: string) =>
  queryOptions({
    queryKey: ["project", ...branchKey(id), "tasks"],
    queryFn: async () => (await data(api.GET("/api/projects/{project}/tasks", { params: { path: { project: id } } }))).items,
    refetchInterval: (query) => pollWhileUnfinished(query.state.data),
  });

export const task = (id: string, task: string) =>
  queryOptions({
    queryKey: ["project", ...branchKey(id), "tasks", task],
    queryFn: () => data(api.GET("/api/projects/{project}/tasks/{task}", { params: { path: { project: id, task } } })),
    refetchInterval: (query) => pollWhileUnfinished(query.state.data && [query.state.data]),
  });

export const taskDiff = (id: string, task: string) =>
  queryOptions({
    queryKey: ["task-diff", ...branchKey(id), task],
    queryFn: () => data(api.GET("/api/projects/{project}/tasks/{task}/diff", { params: { path: { project: id, task } } })),
    staleTime: Number.POSITIVE_INFINITY,
  });

/** The snapshots of a project, newest first. */
export const snapshots = (id: string) =>
  queryOptions({
    queryKey: ["project", ...branchKey(id), "snapshots"],
    queryFn: async () => {
      const all: Schemas["Snapshot"][] = [];
      let cursor: string | undefined;
      for (let page = 0; page < maxPages; page++) {
        const result = await data(api.GET("/api/projects/{project}/snapshots", { params: { path: { project: id }, query: { cursor } } }));
        all.push(...result.items);
        if (!result.nextCursor) break;
        cursor = result.nextCursor;
      }
      return all;
    },
  });

/** Whether a backup changes without a request of this page. */
const isUnsettled = ({ state, verifying }: Schemas["Backup"]) => state === "queued" || state === "running" || state === "deleting" || verifying;

/** The backups of a project, newest first. Their progress has no events. */
export const backups = (id: string) =>
  queryOptions({
    queryKey: ["project", ...branchKey(id), "backups"],
    queryFn: async () => (await data(api.GET("/api/projects/{project}/backups", { params: { path: { project: id } } }))).items,
    refetchInterval: ({ state }) => (state.data?.some(isUnsettled) ? 2000 : false),
  });

/** Whether the projects of a region can be backed up; undefined until it is known. Constant until the server is replaced. */
export const useHasBackups = (region: string | undefined) =>
  useQuery({ ...regions, staleTime: Number.POSITIVE_INFINITY }).data?.items.find(({ name }) => name === region)?.backups;

/** How many scheduled snapshots of each branch of a project are kept. */
export const snapshotSchedule = (id: string) =>
  queryOptions({
    queryKey: ["project", id, "snapshot-schedule"],
    queryFn: () => data(api.GET("/api/projects/{project}/snapshot-schedule", { params: { path: { project: id } } })),
  });

/** Files that changed after a snapshot. File changes have no events, so it is read each time it is shown. */
export const snapshotDiff = (id: string, snapshot: string) =>
  queryOptions({
    queryKey: ["snapshot-diff", ...branchKey(id), snapshot],
    queryFn: () => data(api.GET("/api/projects/{project}/snapshots/{snapshot}/diff", { params: { path: { project: id, snapshot } } })),
    gcTime: 0,
    retry: false,
  });

/** The text of a change after a snapshot. */
export const snapshotFileDiff = (id: string, snapshot: string, path: string) =>
  queryOptions({
    queryKey: ["snapshot-file-diff", ...branchKey(id), snapshot, path],
    queryFn: () => data(api.GET("/api/projects/{project}/snapshots/{snapshot}/diff/file", { params: { path: { project: id, snapshot }, query: { path } } })),
    gcTime: 0,
  });

/** Tables that changed after a snapshot. It takes seconds to minutes, so it is read on request. */
export const snapshotDatabaseDiff = (id: string, snapshot: string) =>
  queryOptions({
    queryKey: ["snapshot-database-diff", ...branchKey(id), snapshot],
    queryFn: () => data(api.GET("/api/projects/{project}/snapshots/{snapshot}/diff/database", { params: { path: { project: id, snapshot } } })),
    gcTime: 0,
    retry: false,
    refetchOnWindowFocus: false,
  });

/** Creates a snapshot. The key lets the server recognize a request that is sent twice. */
export function useCreateSnapshot() {
  const queries = useQueryClient();
  return useMutation({
    mutationFn: ({ project, name }: { project: string; name?: string }) =>
      data(
        api.POST("/api/projects/{project}/snapshots", {
          params: { path: { project }, header: { "Idempotency-Key": randomId() } },
          body: { name },
        }),
      ),
    onSuccess: ({ state }) => notifications.show({ message: state === "creating" ? "Creating the snapshot…" : "Snapshot created." }),
    onSettled: (_data, _error, { project }) => queries.invalidateQueries({ queryKey: snapshots(project).queryKey }),
    onError: notifyError,
  });
}

export const tokens = queryOptions({ queryKey: ["tokens"], queryFn: () => data(api.GET("/api/tokens")) });
export const sessions = queryOptions({ queryKey: ["sessions"], queryFn: () => data(api.GET("/api/auth/sessions")) });
export const users = queryOptions({ queryKey: ["users"], queryFn: () => data(api.GET("/api/users")) });
export const audit = queryOptions({
  queryKey: ["audit"],
  // The type includes JSON lines, which are sent only on request.
  queryFn: async () => (await data(api.GET("/api/audit"))) as Schemas["Page_AuditEntry"],
});
export const images = queryOptions({
  queryKey: ["images"],
  queryFn: () => data(api.GET("/api/images")),
  staleTime: 60_000,
});
/** The regions in which projects can be created. */
export const regions = queryOptions({ queryKey: ["regions"], queryFn: () => data(api.GET("/api/regions")), staleTime: 10_000 });

/** Whether the projects of a region have snapshots; undefined until it is known. Constant until the server is replaced. */
export const useHasSnapshots = (region: string | undefined) =>
  useQuery({ ...regions, staleTime: Number.POSITIVE_INFINITY }).data?.items.find(({ name }) => name === region)?.snapshots;

/** The agents that can run tasks, the default first. Constant until the server is replaced. */
export const agents = queryOptions({
  queryKey: ["agents"],
  queryFn: () => data(api.GET("/api/agents")),
  staleTime: Number.POSITIVE_INFINITY,
});

export const members = (id: string) =>
  queryOptions({
    queryKey: ["project-details", id, "members"],
    queryFn: () => data(api.GET("/api/projects/{project}/members", { params: { path: { project: id } } })),
  });

/** Names of the user's own agent credentials. */
export const agentCredentials = queryOptions({ queryKey: ["agent-keys"], queryFn: () => data(api.GET("/api/me/agent-credentials")) });

/** Health checks, as `fsa doctor` reports them. Refetched seldom: on a cluster they take dozens of requests. */
export const checks = queryOptions({
  queryKey: ["system", "checks"],
  queryFn: () => data(api.GET("/api/system/checks")),
  staleTime: 60_000,
});

/** Milliseconds between samples of a chart. */
const sampleInterval = 3_000;
export const systemUsage = queryOptions({
  queryKey: ["system", "usage"],
  queryFn: () => data(api.GET("/api/system/usage")),
  refetchInterval: sampleInterval,
});

export const readiness = queryOptions({
  queryKey: ["readyz"],
  queryFn: async () => {
    // A 503 response is valid here too: it carries the reasons.
    const response = await api.GET("/readyz");
    return response.data ?? (response.error as { ready: boolean; parts: Record<string, string> });
  },
  refetchInterval: 10_000,
});

/** Shows an error as a notification. */
export function notifyError(error: unknown) {
  notifications.show({ color: "red", title: "Request failed", message: errorMessage(error), autoClose: 10_000 });
}

export type LifecycleAction = "start" | "stop" | "restart" | "recreate" | "terminate" | "delete";

/** Start, stop and the like. The response acknowledges the request; progress arrives as events. */
export function useLifecycleAction() {
  const queries = useQueryClient();
  return useMutation({
    mutationFn: async ({ id, action }: { id: string; action: LifecycleAction }) => {
      const params = { path: { project: id } };
      if (action === "start") await data(api.POST("/api/projects/{project}/start", { params }));
      else if (action === "stop") await data(api.POST("/api/projects/{project}/stop", { params }));
      else if (action === "restart") await data(api.POST("/api/projects/{project}/restart", { params }));
      else if (action === "recreate") await data(api.POST("/api/sandbox/{project}", { params }));
      else if (action === "terminate") await data(api.DELETE("/api/sandbox/{project}", { params }));
      else await data(api.DELETE("/api/projects/{project}", { params }));
    },
    onSettled: () => queries.invalidateQueries({ queryKey: ["projects"] }),
    onError: notifyError,
  });
}
