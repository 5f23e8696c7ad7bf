import { expect, test } from "vitest";
import { isOver, step } from "./task";

test("steps read as lines", () => {
  expect(step({ kind: "started", data: { model: "opus" } })).toBe("Begins, with opus.");
  expect(step({ kind: "started", data: {} })).toBe("Begins.");
  expect(step({ kind: "text", data: { text: "Done." } })).toBe("Done.");
  expect(step({ kind: "toolCall", data: { name: "Write", input: { path: "a" } } })).toBe('Write {"path":"a"}');
  expect(step({ kind: "toolResult", data: { output: "x".repeat(1000) } })).toBe(`→ ${"x".repeat(600)}…`);
});

test("what has ended, however it did, is over", () => {
  expect(["queued", "running"].some((state) => isOver(state as never))).toBe(false);
  expect(["succeeded", "failed", "cancelled"].every((state) => isOver(state as never))).toBe(true);
});
