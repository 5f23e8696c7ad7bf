import { expect, it } from "vitest";
import { branchKey, branchReference, maxBranchNameLength, parseReference } from "./branch";
import { nameProblem, suggestName } from "./name";

it("a reference names a project and a branch, main by default", () => {
  for (const [reference, project, branch] of [
    ["shop", "shop", "main"],
    ["shop@fix", "shop", "fix"],
    ["shop@main", "shop", "main"],
    ["shop@", "shop", ""],
  ] as const) {
    expect(parseReference(reference)).toEqual({ project, branch });
    expect(branchKey(reference)).toEqual([project, branch]);
  }
  expect(branchReference("shop", "fix")).toBe("shop@fix");
  expect(branchReference("shop", "main")).toBe("shop");
});

it("a branch's name is shorter than a project's", () => {
  expect(nameProblem("a".repeat(30), maxBranchNameLength)).toBeUndefined();
  expect(nameProblem("a".repeat(31), maxBranchNameLength)).toBe("The name has 31 characters. Use at most 30.");
  expect(suggestName(`Fix ${"a".repeat(40)}`, maxBranchNameLength)).toHaveLength(30);
});
