// Project roles and what they permit. The server enforces permissions; here they only decide which controls are shown.
import type { Schemas } from "../api/client";

export type ProjectRole = Schemas["ProjectRole"];

const order: ProjectRole[] = ["viewer", "editor", "admin", "owner"];

/** Whether `role` includes the permissions of `required`. */
export const hasRole = (role: ProjectRole, required: ProjectRole) => order.indexOf(role) >= order.indexOf(required);

/** The roles that can be assigned, with what each permits. */
export const assignableRoles: { value: Exclude<ProjectRole, "owner">; label: string; description: string }[] = [
  { value: "viewer", label: "Viewer", description: "can view status, files, logs, previews, and terminals without typing" },
  { value: "editor", label: "Editor", description: "can also use terminals, change files and environment, and start and stop the sandbox" },
  { value: "admin", label: "Admin", description: "can also change settings, port settings, and members" },
];

/** The project in a URL: its name, or its id where the user has access to another project of the same name. */
export function projectSlug(project: { id: string; name: string; role: ProjectRole }, all: { id: string; name: string; role: ProjectRole }[]): string {
  const sameName = all.filter((other) => other.name === project.name);
  return sameName.length < 2 || project.role === "owner" ? project.name : project.id;
}
