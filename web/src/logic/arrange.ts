// Which projects are shown, in which order.
import type { Project } from "../api/client";
import { score } from "./match";

export type Order = "changed" | "name" | "status";

/** What wants attention first. */
const urgency = ["ERROR", "CREATING", "STARTING", "UPDATING", "RUNNING", "STOPPING", "TERMINATING", "STOPPED", "TERMINATED"];

export function arranged(all: Project[], query: string, order: Order): Project[] {
  const found = query.trim()
    ? all.filter((project) => score(project.name, query) > 1 || score(project.description ?? "", query) > 1)
    : [...all];
  const rank = (project: Project) => urgency.indexOf(project.sandbox?.status ?? "TERMINATED");
  const byName = (a: Project, b: Project) => a.name.localeCompare(b.name);
  if (order === "name") return found.sort(byName);
  if (order === "status") return found.sort((a, b) => rank(a) - rank(b) || byName(a, b));
  return found.sort((a, b) => b.updatedAt.localeCompare(a.updatedAt) || byName(a, b));
}
