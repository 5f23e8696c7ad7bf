// The rule of a project's name, shown while one is typed. The server checks it again.

const most = 40;

export const nameRule =
  "Small letters, digits and single dashes; begins with a letter, ends with a letter or digit; at most 40.";

/** What is wrong with a name, or undefined. */
export function nameProblem(name: string): string | undefined {
  if (name === "") return "Give it a name.";
  if (name.length > most) return `At most ${most} characters; this has ${name.length}.`;
  if (!/^[a-z]/.test(name)) return "It begins with a small letter.";
  const strange = name.match(/[^a-z0-9-]/);
  if (strange) return `“${strange[0]}” cannot be in a name: small letters, digits and dashes only.`;
  if (name.includes("--")) return "No two dashes in a row.";
  if (name.endsWith("-")) return "It does not end with a dash.";
  return undefined;
}

/** The nearest name that is allowed; only offered, never put in somebody's place. */
export function suggestName(text: string): string {
  return text
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, "-")
    .replace(/^[^a-z]+/, "")
    .slice(0, most)
    .replace(/-+$/, "");
}
