import { expect, test } from "vitest";
import { lines } from "./diff";

test("a removed line that looks like a file's head is a removed line", () => {
  const diff = "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1,2 +1 @@ place\n--- old\n+++ new\n same\n";
  expect(lines(diff).shown.map((line) => line.kind)).toEqual(["file", "file", "file", "place", "removed", "added", "same"]);
});

test("the second file's head is a head again", () => {
  const diff = "diff --git a/x b/x\n@@ -1 +1 @@\n-a\n+b\ndiff --git a/y b/y\n--- a/y\n";
  expect(lines(diff).shown.map((line) => line.kind)).toEqual(["file", "place", "removed", "added", "file", "file"]);
});

test("a diff that is too long to read is cut", () => {
  const { shown, more } = lines("+\n".repeat(6000));
  expect(shown.length).toBe(5000);
  expect(more).toBe(true);
});
