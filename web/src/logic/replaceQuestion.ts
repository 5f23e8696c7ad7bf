// The question before files are replaced.

/** Names of a list that are shown. */
const maxNames = 5;

export function replaceQuestion(names: string[], folder: string): { title: string; text: string; action: string } {
  const where = folder === "." ? "the project folder" : folder;
  const shown = names.slice(0, maxNames).join(", ") + (names.length > maxNames ? ` and ${names.length - maxNames} more` : "");
  return {
    title: names.length === 1 ? `Replace ${names[0]}?` : `Replace ${names.length} files?`,
    text: names.length === 1 ? `There is already a ${names[0]} in ${where}.` : `These files exist already in ${where}: ${shown}.`,
    action: "Replace",
  };
}
