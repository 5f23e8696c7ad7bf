// What is typed into the preview's address bar.

/** A path on the chosen port; a whole address is cut to its path. */
export function address(typed: string): string {
  const text = typed.trim().replace(/^[a-z]+:\/\/[^/?#]*/i, "");
  if (text.startsWith("/")) return text;
  return `/${text}`;
}
