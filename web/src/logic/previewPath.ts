// Normalization of the text in the address bar of the preview.

/** A path on the selected port; of a full URL only the path is kept. */
export function previewPath(typed: string): string {
  const text = typed.trim().replace(/^[a-z]+:\/\/[^/?#]*/i, "");
  if (text.startsWith("/")) return text;
  return `/${text}`;
}
