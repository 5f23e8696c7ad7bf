// Validation of a name of a project or a branch while it is typed. The server validates it again.

const maxProjectNameLength = 40;

export const nameRule =
  "Lowercase letters, digits and single hyphens. Must start with a letter, end with a letter or digit, and have at most 40 characters.";

/** What is wrong with a name, or undefined. */
export function nameProblem(name: string, maxLength = maxProjectNameLength): string | undefined {
  if (name === "") return "Enter a name.";
  if (name.length > maxLength) return `The name has ${name.length} characters. Use at most ${maxLength}.`;
  if (!/^[a-z]/.test(name)) return "The name must start with a lowercase letter.";
  const invalid = name.match(/[^a-z0-9-]/);
  if (invalid) return `The name must not contain “${invalid[0]}”. Use lowercase letters, digits and hyphens.`;
  if (name.includes("--")) return "The name must not contain two hyphens in a row.";
  if (name.endsWith("-")) return "The name must not end with a hyphen.";
  return undefined;
}

/** The nearest valid name. It is only offered, and never replaces what was typed. */
export function suggestName(text: string, maxLength = maxProjectNameLength): string {
  return text
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, "-")
    .replace(/^[^a-z]+/, "")
    .slice(0, maxLength)
    .replace(/-+$/, "");
}
