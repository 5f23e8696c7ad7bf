import { readFileSync } from "node:fs";
import { expect, it } from "vitest";
import type { Schemas } from "../api/client";
import { endedReference, staleQueries } from "./eventQueries";

const kinds = JSON.parse(readFileSync(new URL("../../api.json", import.meta.url), "utf8")).components.schemas.EventKind.enum as Schemas["EventKind"][];
const details = (kind: Schemas["EventKind"]) => staleQueries({ kind, projectId: "p" }).some(([key]) => key === "project-details");

it("a project is gone when it is deleted or no longer shared, and a branch when it is deleted", () => {
  const ended = Object.fromEntries(kinds.map((kind) => [kind, endedReference({ kind, projectId: "p", branch: "b" })]).filter(([, reference]) => reference));
  expect(ended).toEqual({ branchDeleted: "p@b", projectDeleted: "p", shareEnded: "p" });
});

it("an event makes the queries stale that it concerns", () => {
  for (const kind of kinds) expect(staleQueries({ kind, projectId: "p" }).slice(0, 2)).toEqual([["projects"], ["project", "p"]]);
  expect(staleQueries({ kind: "snapshotRestored", projectId: "p" })).toEqual([["projects"], ["project", "p"], ["files", "p"], ["git", "p"]]);
  // Members are shown with the details; the server reports their change as a change of the project.
  expect(kinds.filter(details).sort()).toEqual(["databaseCreated", "databaseDropped", "databaseLost", "environmentChanged", "projectChanged", "shareEnded"]);
});
