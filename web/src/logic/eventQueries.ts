// Effects of a project's event: which cached queries it makes stale, and what of the project is gone.
import type { Schemas } from "../api/client";
import { branchReference } from "./branch";

type Event = Pick<Schemas["Event"], "kind" | "projectId" | "branch">;

/** Events that change settings, members, variables or the database of a project. */
const changesDetails = new Set<Event["kind"]>(["projectChanged", "shareEnded", "environmentChanged", "databaseCreated", "databaseLost", "databaseDropped"]);

/** The project or the branch that the user no longer has. */
export function endedReference({ kind, projectId, branch }: Event): string | undefined {
  if (kind === "projectDeleted" || kind === "shareEnded") return projectId;
  return kind === "branchDeleted" && branch ? branchReference(projectId, branch) : undefined;
}

/** Keys of the queries, with all below them. */
export function staleQueries(event: Event): (string | null | undefined)[][] {
  const keys = [["projects"], ["project", event.projectId]];
  // Other changes of files have no events.
  if (event.kind === "snapshotRestored") keys.push(["files", event.projectId], ["git", event.projectId]);
  return changesDetails.has(event.kind) ? [...keys, ["project-details", event.projectId]] : keys;
}
