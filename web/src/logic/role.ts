// What somebody is in a project, and what that lets them do. The server judges it again; here it only
// decides what is offered.
import type { Schemas } from "../api/client";

export type ProjectRole = Schemas["ProjectRole"];

const order: ProjectRole[] = ["viewer", "editor", "admin", "owner"];

/** Whether a role may what the least one that is needed may. */
export const may = (role: ProjectRole, least: ProjectRole) => order.indexOf(role) >= order.indexOf(least);

/** The roles that can be given, with what each means. */
export const given: { value: Exclude<ProjectRole, "owner">; label: string; means: string }[] = [
  { value: "viewer", label: "Viewer", means: "looks on: status, files, logs, previews, and terminals without typing" },
  { value: "editor", label: "Editor", means: "works inside: terminals, files, environment, start and stop" },
  { value: "admin", label: "Admin", means: "also changes settings, who may open ports, and who it is shared with" },
];

/** What a project is called in an address: its name, or its id where another of the caller's has the same one. */
export function addressed(project: { id: string; name: string; role: ProjectRole }, all: { id: string; name: string; role: ProjectRole }[]): string {
  const same = all.filter((other) => other.name === project.name);
  return same.length < 2 || project.role === "owner" ? project.name : project.id;
}
