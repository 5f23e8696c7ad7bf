// Parser of a unified diff into lines with a kind each. Pure.

/** Lines that are shown at most: more would make the page slow. */
const maxLines = 5000;

export type DiffLine = { text: string; kind: "added" | "removed" | "hunk" | "header" | "context"; color?: string };

const colors: Partial<Record<DiffLine["kind"], string>> = {
  added: "var(--mantine-color-teal-text)",
  removed: "var(--mantine-color-red-text)",
  hunk: "var(--mantine-color-blue-text)",
  header: "var(--mantine-color-dimmed)",
};

/** The lines of a diff. A file's header (`---`, `+++`) is distinguished from changed lines that begin alike. */
export function parseDiff(diff: string): { lines: DiffLine[]; truncated: boolean } {
  const texts = diff.replace(/\n$/, "").split("\n");
  let inHeader = true;
  const lines = texts.slice(0, maxLines).map((text): DiffLine => {
    if (/^(diff|\* Unmerged)/.test(text)) inHeader = true;
    const kind = text.startsWith("@@")
      ? "hunk"
      : inHeader
        ? "header"
        : text.startsWith("+")
          ? "added"
          : text.startsWith("-")
            ? "removed"
            : "context";
    if (kind === "hunk") inHeader = false;
    return { text, kind, color: colors[kind] };
  });
  return { lines, truncated: texts.length > maxLines };
}
