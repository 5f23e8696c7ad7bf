// Filtering and sorting of the project list.
import type { Project } from "../api/client";
import { fuzzyScore } from "./fuzzy";

export type SortOrder = "changed" | "name" | "status";

/** Phases in the order of sorting by status: those that need attention come first. */
const phaseOrder = ["ERROR", "CREATING", "STARTING", "UPDATING", "RUNNING", "STOPPING", "TERMINATING", "STOPPED", "TERMINATED"];

export function filterAndSort(all: Project[], query: string, order: SortOrder): Project[] {
  const matching = query.trim()
    ? all.filter((project) => fuzzyScore(project.name, query) > 1 || fuzzyScore(project.description ?? "", query) > 1)
    : [...all];
  const rank = (project: Project) => phaseOrder.indexOf(project.sandbox?.status ?? "TERMINATED");
  const byName = (a: Project, b: Project) => a.name.localeCompare(b.name);
  if (order === "name") return matching.sort(byName);
  if (order === "status") return matching.sort((a, b) => rank(a) - rank(b) || byName(a, b));
  return matching.sort((a, b) => b.updatedAt.localeCompare(a.updatedAt) || byName(a, b));
}
