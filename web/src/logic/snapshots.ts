// Snapshots of a project: labels, groups by day, and what a restore changes.
import type { Schemas } from "../api/client";
import { formatDateTime } from "./time";

export type Snapshot = Schemas["Snapshot"];
type FileChanges = Pick<Schemas["SnapshotDiff"], "added" | "changed" | "removed" | "truncated">;

const causeLabels: Record<Snapshot["cause"], string> = {
  manual: "Manual",
  schedule: "Scheduled",
  agent: "Agent",
  "before-restore": "Before restore",
  "before-promote": "Before promotion",
  backup: "Backup",
  branch: "Copy of a branch",
};

/** Why a snapshot was taken, in words. */
export const snapshotCause = ({ cause, promotedBranch }: Pick<Snapshot, "cause" | "promotedBranch">) =>
  cause === "before-promote" && promotedBranch ? `Before promotion of ${promotedBranch}` : causeLabels[cause];

/** The schedule of a project's snapshots in words. */
export function scheduleText({ hourly, daily, isDefault }: Pick<Schemas["SnapshotScheduleView"], "hourly" | "daily" | "isDefault">): string {
  const parts = [hourly > 0 && `${hourly} hourly`, daily > 0 && `${daily} daily`].filter(Boolean);
  if (parts.length === 0) return "No scheduled snapshots.";
  return `Scheduled snapshots: ${parts.join(", ")}${isDefault ? " (default)" : ""}.`;
}

/** The name, or what identifies a snapshot without one. */
export const snapshotTitle = (snapshot: Pick<Snapshot, "name" | "createdAt">) => snapshot.name ?? formatDateTime(snapshot.createdAt);

/** The folder in which the repository is cloned and terminals open. */
const projectFolder = "/home/dev/project/";

/** A path relative to the project's folder if it is below, else absolute. */
export const shownPath = (path: string) => (path.startsWith(projectFolder) ? path.slice(projectFolder.length) : path);

/** Groups snapshots, which are in the order of their time, by the local day. */
export function byDay<T extends Pick<Snapshot, "createdAt">>(snapshots: T[], now = new Date()): { day: string; snapshots: T[] }[] {
  const label = (time: Date) => time.toLocaleDateString(undefined, { dateStyle: "medium" });
  const yesterday = new Date(now);
  yesterday.setDate(now.getDate() - 1);
  const groups: { day: string; snapshots: T[] }[] = [];
  for (const snapshot of snapshots) {
    const date = label(new Date(snapshot.createdAt));
    const day = date === label(now) ? "Today" : date === label(yesterday) ? "Yesterday" : date;
    const last = groups.at(-1);
    if (last?.day === day) last.snapshots.push(snapshot);
    else groups.push({ day, snapshots: [snapshot] });
  }
  return groups;
}

/** What changed in the rows of a table, in words. */
export function rowsText({ rows, notCompared }: Pick<Schemas["TableChange"], "rows" | "notCompared">): string {
  if (!rows) return notCompared === "tooManyRows" ? "Too many rows to compare" : notCompared === "timeOver" ? "Rows not compared: the time was over" : "Rows cannot be read";
  const parts = [rows.inserted > 0 && `${rows.inserted.toLocaleString()} inserted`, rows.updated > 0 && `${rows.updated.toLocaleString()} updated`, rows.deleted > 0 && `${rows.deleted.toLocaleString()} deleted`];
  return parts.filter(Boolean).join(", ");
}

/** A table's name, with its schema and database where they are not the usual ones. */
export const tableTitle = ({ database, schema, name }: Pick<Schemas["TableChange"], "database" | "schema" | "name">) =>
  [database, schema !== "public" && schema, name].filter(Boolean).join(".");

/** How a file, a table or a column differs: as `git diff --name-status` has it, and in words. */
export const changeLetters = { added: "A", changed: "M", removed: "D" } as const;
export const changeLabels = { added: "Added", changed: "Changed", removed: "Removed" } as const;

/** Why the text of a change is not shown. */
export const notShownLabels: Record<NonNullable<Schemas["FileDiff"]["notShown"]>, string> = {
  binary: "Binary files are not shown.",
  tooLarge: "Files over 1 MiB are not shown.",
  notAFile: "Not a regular file in both states.",
  absent: "The file is no longer there.",
};

const count = (number: number, one: string, many: string) => `${number.toLocaleString()} ${number === 1 ? one : many}`;

/** What a restore does to the files, from their changes since the snapshot. */
export function restoreEffects(changes: FileChanges): string[] {
  const effects: string[] = [];
  if (changes.changed > 0) effects.push(`${count(changes.changed, "changed file gets its", "changed files get their")} earlier content`);
  if (changes.added > 0) effects.push(`${count(changes.added, "file that was added since is removed", "files that were added since are removed")}`);
  if (changes.removed > 0) effects.push(`${count(changes.removed, "deleted file is", "deleted files are")} restored`);
  if (changes.truncated) effects.push("There are more changes than were counted");
  return effects;
}
