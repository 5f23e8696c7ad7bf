// A unified diff as lines with a meaning each. Pure.

/** Lines that are shown at most: more would make the page slow, and nobody reads them here. */
const most = 5000;

export type Line = { text: string; kind: "added" | "removed" | "place" | "file" | "same"; color?: string };

const colors: Partial<Record<Line["kind"], string>> = {
  added: "var(--mantine-color-teal-text)",
  removed: "var(--mantine-color-red-text)",
  place: "var(--mantine-color-blue-text)",
  file: "var(--mantine-color-dimmed)",
};

/** The lines of a diff; the head of each file is told from lines that begin with the same signs. */
export function lines(diff: string): { shown: Line[]; more: boolean } {
  const texts = diff.replace(/\n$/, "").split("\n");
  let head = true;
  const shown = texts.slice(0, most).map((text): Line => {
    if (/^(diff|\* Unmerged)/.test(text)) head = true;
    const kind = text.startsWith("@@")
      ? "place"
      : head
        ? "file"
        : text.startsWith("+")
          ? "added"
          : text.startsWith("-")
            ? "removed"
            : "same";
    if (kind === "place") head = false;
    return { text, kind, color: colors[kind] };
  });
  return { shown, more: texts.length > most };
}
