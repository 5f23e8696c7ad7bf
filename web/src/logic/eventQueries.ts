// Effects of a project's event: which cached queries it makes stale, and whether the project is gone.
import type { Schemas } from "../api/client";

type Event = Pick<Schemas["Event"], "kind" | "projectId">;

/** Events that change settings, members, variables or the database of a project. */
const changesDetails = new Set<Event["kind"]>(["projectChanged", "shareEnded", "environmentChanged", "databaseCreated", "databaseLost", "databaseDropped"]);

/** Whether the user no longer has the project. */
export const endsAccess = (event: Event) => event.kind === "projectDeleted" || event.kind === "shareEnded";

/** Keys of the queries, with all below them. */
export function staleQueries(event: Event): (string | null | undefined)[][] {
  const keys = [["projects"], ["project", event.projectId]];
  // Other changes of files have no events.
  if (event.kind === "snapshotRestored") keys.push(["files", event.projectId], ["git", event.projectId]);
  return changesDetails.has(event.kind) ? [...keys, ["project-details", event.projectId]] : keys;
}
