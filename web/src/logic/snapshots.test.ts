import { expect, it } from "vitest";
import { byDay, restoreEffects, rowsText, scheduleText, shownPath, snapshotCause, snapshotTitle, tableTitle } from "./snapshots";

const at = (createdAt: string) => ({ createdAt });

it("snapshots are grouped by local day", () => {
  const now = new Date(2026, 10, 29, 12);
  const times = [new Date(2026, 10, 29, 11), new Date(2026, 10, 29, 0, 1), new Date(2026, 10, 28, 23, 59), new Date(2026, 10, 2)];
  const groups = byDay(times.map((time) => at(time.toISOString())), now);
  expect(groups.map(({ day, snapshots }) => [day, snapshots.length])).toEqual([
    ["Today", 2],
    ["Yesterday", 1],
    [new Date(2026, 10, 2).toLocaleDateString(undefined, { dateStyle: "medium" }), 1],
  ]);
  expect(byDay([], now)).toEqual([]);
});

it("a snapshot without a name is identified by its time", () => {
  expect(snapshotTitle({ name: "before the upgrade", createdAt: "2026-11-29T12:00:00Z" })).toBe("before the upgrade");
  expect(snapshotTitle({ createdAt: "2026-11-29T12:00:00Z" })).toContain("2026");
});

it("a snapshot before a promotion names the branch", () => {
  expect(snapshotCause({ cause: "before-promote", promotedBranch: "fix" })).toBe("Before promotion of fix");
  expect(snapshotCause({ cause: "before-restore" })).toBe("Before restore");
});

it("changes of a table are described", () => {
  expect(rowsText({ rows: { inserted: 3, updated: 0, deleted: 10 } })).toBe("3 inserted, 10 deleted");
  expect(rowsText({ notCompared: "tooManyRows" })).toBe("Too many rows to compare");
  expect(tableTitle({ schema: "public", name: "orders" })).toBe("orders");
  expect(tableTitle({ database: "shadow", schema: "audit", name: "log" })).toBe("shadow.audit.log");
});

it("a schedule is described", () => {
  expect(scheduleText({ hourly: 24, daily: 7, isDefault: true })).toBe("Scheduled snapshots: 24 hourly, 7 daily (default).");
  expect(scheduleText({ hourly: 0, daily: 3, isDefault: false })).toBe("Scheduled snapshots: 3 daily.");
  expect(scheduleText({ hourly: 0, daily: 0, isDefault: true })).toBe("No scheduled snapshots.");
});

it("paths are relative to the project's folder", () => {
  expect(shownPath("/home/dev/project/src/main.ts")).toBe("src/main.ts");
  expect(shownPath("/home/dev/projects")).toBe("/home/dev/projects");
});

it("a restore undoes the changes since the snapshot", () => {
  const none = { added: 0, changed: 0, removed: 0, truncated: false };
  expect(restoreEffects(none)).toEqual([]);
  expect(restoreEffects({ ...none, added: 1, changed: 2 })).toEqual([
    "2 changed files get their earlier content",
    "1 file that was added since is removed",
  ]);
  expect(restoreEffects({ ...none, removed: 1, truncated: true })).toEqual(["1 deleted file is restored", "There are more changes than were counted"]);
});
