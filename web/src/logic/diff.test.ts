import { expect, test } from "vitest";
import { parseDiff } from "./diff";

test("a removed line that looks like a file header is a removed line", () => {
  const diff = "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1,2 +1 @@ place\n--- old\n+++ new\n same\n";
  expect(parseDiff(diff).lines.map((line) => line.kind)).toEqual(["header", "header", "header", "hunk", "removed", "added", "context"]);
});

test("the header of the second file is a header again", () => {
  const diff = "diff --git a/x b/x\n@@ -1 +1 @@\n-a\n+b\ndiff --git a/y b/y\n--- a/y\n";
  expect(parseDiff(diff).lines.map((line) => line.kind)).toEqual(["header", "hunk", "removed", "added", "header", "header"]);
});

test("a diff that is too long to read is truncated", () => {
  const { lines, truncated } = parseDiff("+\n".repeat(6000));
  expect(lines.length).toBe(5000);
  expect(truncated).toBe(true);
});
