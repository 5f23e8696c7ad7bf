// What the screens read and do, each with the key under which it goes stale.
import { notifications } from "@mantine/notifications";
import { queryOptions, useMutation, useQueryClient } from "@tanstack/react-query";
import { isOver } from "../logic/task";
import { api, type FileEntry, type Project, type Schemas, data, refusal, send, sentence } from "./client";

/** Pages of a list that are read at most; beyond it the server's own limits have been passed. */
const pagesMost = 100;

export const me = queryOptions({ queryKey: ["me"], queryFn: () => data(api.GET("/api/me")), staleTime: 60_000 });

/** How somebody can sign in here. */
export const methods = queryOptions({
  queryKey: ["methods"],
  queryFn: () => data(api.GET("/api/auth/methods")),
  staleTime: 60_000,
});

export const projects = queryOptions({
  queryKey: ["projects"],
  queryFn: async () => {
    const all: Project[] = [];
    let cursor = "";
    for (let page = 0; page < pagesMost; page++) {
      const found = await data(api.GET("/api/projects", { params: { query: { cursor } } }));
      all.push(...found.items);
      if (!found.nextCursor) break;
      cursor = found.nextCursor;
    }
    return all;
  },
});

/** A project, by the name in the page's address. Its events know the id, so both find it. */
export const project = (name: string) =>
  queryOptions({
    queryKey: ["projects", name],
    queryFn: () => data(api.GET("/api/projects/{project}", { params: { path: { project: name } } })),
  });

export const ports = (id: string) =>
  queryOptions({
    queryKey: ["project", id, "ports"],
    queryFn: () => data(api.GET("/api/projects/{project}/ports", { params: { path: { project: id } } })),
  });

export const environment = (id: string, reveal: boolean) =>
  queryOptions({
    queryKey: ["inside", id, "environment", reveal],
    queryFn: () =>
      data(api.GET("/api/projects/{project}/environment", { params: { path: { project: id }, query: { reveal } } })),
    // A value that was revealed does not stay longer than it is looked at.
    gcTime: reveal ? 0 : undefined,
  });

export const database = (id: string, reveal: boolean) =>
  queryOptions({
    queryKey: ["inside", id, "database", reveal],
    queryFn: () =>
      data(api.GET("/api/projects/{project}/database", { params: { path: { project: id }, query: { reveal } } })),
    gcTime: reveal ? 0 : undefined,
  });

export const terminals = (id: string) =>
  queryOptions({
    queryKey: ["project", id, "terminals"],
    queryFn: () => data(api.GET("/api/projects/{project}/terminals", { params: { path: { project: id } } })),
  });

export const filesUrl = (id: string, path: string, more = "") =>
  `/api/projects/${encodeURIComponent(id)}/files?path=${encodeURIComponent(path)}${more}`;

export const listing = (id: string, path: string) =>
  queryOptions({
    queryKey: ["files", id, path],
    queryFn: async ({ signal }) => {
      const answer = await send(filesUrl(id, path, "&list=true"), { signal });
      if (!answer.ok) throw await refusal(answer);
      const entries = (await answer.json()) as FileEntry[];
      return entries.sort(
        (a, b) => Number(b.kind === "directory") - Number(a.kind === "directory") || a.name.localeCompare(b.name),
      );
    },
  });

/** Nobody tells when files change, so it is looked at again while somebody sees it. */
export const gitStatus = (id: string) =>
  queryOptions({
    queryKey: ["git", id, "status"],
    queryFn: () => data(api.GET("/api/projects/{project}/git/status", { params: { path: { project: id } } })),
    refetchInterval: 10_000,
    retry: false,
  });

export const gitDiff = (id: string, path: string, staged: boolean) =>
  queryOptions({
    queryKey: ["git", id, "diff", path, staged],
    queryFn: () => data(api.GET("/api/projects/{project}/git/diff", { params: { path: { project: id }, query: { path, staged } } })),
    refetchInterval: 10_000,
  });

/** Milliseconds between two looks at what an agent is at; that it has begun is no event. */
const working = 3_000;
const whileAtWork = (all: Schemas["Task"][] | undefined) => (all?.some((one) => !isOver(one.state)) ? working : false);

/** The newest tasks of a project. */
export const tasks = (id: string) =>
  queryOptions({
    queryKey: ["project", id, "tasks"],
    queryFn: async () => (await data(api.GET("/api/projects/{project}/tasks", { params: { path: { project: id } } }))).items,
    refetchInterval: (query) => whileAtWork(query.state.data),
  });

export const task = (id: string, task: string) =>
  queryOptions({
    queryKey: ["project", id, "tasks", task],
    queryFn: () => data(api.GET("/api/projects/{project}/tasks/{task}", { params: { path: { project: id, task } } })),
    refetchInterval: (query) => whileAtWork(query.state.data && [query.state.data]),
  });

export const taskDiff = (id: string, task: string) =>
  queryOptions({
    queryKey: ["task-diff", id, task],
    queryFn: () => data(api.GET("/api/projects/{project}/tasks/{task}/diff", { params: { path: { project: id, task } } })),
    staleTime: Number.POSITIVE_INFINITY,
  });

export const tokens = queryOptions({ queryKey: ["tokens"], queryFn: () => data(api.GET("/api/tokens")) });
export const sessions = queryOptions({ queryKey: ["sessions"], queryFn: () => data(api.GET("/api/auth/sessions")) });
export const users = queryOptions({ queryKey: ["users"], queryFn: () => data(api.GET("/api/users")) });
export const audit = queryOptions({
  queryKey: ["audit"],
  // Lines of JSON come only where they are asked for.
  queryFn: async () => (await data(api.GET("/api/audit"))) as Schemas["Page_AuditEntry"],
});
export const images = queryOptions({
  queryKey: ["images"],
  queryFn: () => data(api.GET("/api/images")),
  staleTime: 60_000,
});
/** Where projects can live. */
export const regions = queryOptions({ queryKey: ["regions"], queryFn: () => data(api.GET("/api/regions")), staleTime: 10_000 });

export const members = (id: string) =>
  queryOptions({
    queryKey: ["inside", id, "members"],
    queryFn: () => data(api.GET("/api/projects/{project}/members", { params: { path: { project: id } } })),
  });

/** Names of the caller's own variables for agents. */
export const agentKeys = queryOptions({ queryKey: ["agent-keys"], queryFn: () => data(api.GET("/api/me/agent-credentials")) });

/** What the doctor finds; a cluster is asked dozens of questions, so it is asked seldom. */
export const checks = queryOptions({
  queryKey: ["system", "checks"],
  queryFn: () => data(api.GET("/api/system/checks")),
  staleTime: 60_000,
});

/** Milliseconds between two samples of a chart. */
const sampled = 3_000;
export const systemUse = queryOptions({
  queryKey: ["system", "usage"],
  queryFn: () => data(api.GET("/api/system/usage")),
  refetchInterval: sampled,
});

export const readiness = queryOptions({
  queryKey: ["readyz"],
  queryFn: async () => {
    // 503 is an answer here too: it carries the reasons.
    const answer = await api.GET("/readyz");
    return answer.data ?? (answer.error as { ready: boolean; parts: Record<string, string> });
  },
  refetchInterval: 10_000,
});

/** Shows what failed, in the server's words. */
export function complain(error: unknown) {
  notifications.show({ color: "red", title: "That did not work", message: sentence(error), autoClose: 10_000 });
}

export type Wish = "start" | "stop" | "restart" | "remake" | "terminate" | "delete";

/** Start, stop and the like: the answer is what is wished, and events bring the rest. */
export function useWish() {
  const queries = useQueryClient();
  return useMutation({
    mutationFn: async ({ id, wish }: { id: string; wish: Wish }) => {
      const params = { path: { project: id } };
      if (wish === "start") await data(api.POST("/api/projects/{project}/start", { params }));
      else if (wish === "stop") await data(api.POST("/api/projects/{project}/stop", { params }));
      else if (wish === "restart") await data(api.POST("/api/projects/{project}/restart", { params }));
      else if (wish === "remake") await data(api.POST("/api/sandbox/{project}", { params }));
      else if (wish === "terminate") await data(api.DELETE("/api/sandbox/{project}", { params }));
      else await data(api.DELETE("/api/projects/{project}", { params }));
    },
    onSettled: () => queries.invalidateQueries({ queryKey: ["projects"] }),
    onError: complain,
  });
}
