import { expect, test } from "vitest";
import { isFinished, stepText } from "./task";

test("a step is shown as text", () => {
  expect(stepText({ kind: "started", data: { model: "opus" } })).toBe("Started with model opus.");
  expect(stepText({ kind: "started", data: {} })).toBe("Started.");
  expect(stepText({ kind: "text", data: { text: "Done." } })).toBe("Done.");
  expect(stepText({ kind: "toolCall", data: { name: "Write", input: { path: "a" } } })).toBe('Write {"path":"a"}');
  expect(stepText({ kind: "toolResult", data: { output: "x".repeat(1000) } })).toBe(`→ ${"x".repeat(600)}…`);
});

test("a succeeded, failed or cancelled task is finished", () => {
  expect(["queued", "running"].some((state) => isFinished(state as never))).toBe(false);
  expect(["succeeded", "failed", "cancelled"].every((state) => isFinished(state as never))).toBe(true);
});
