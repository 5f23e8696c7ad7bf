// Fuzzy matching of titles against a query, for the command palette and the project list.

/** How well `query` matches `title`: higher is better, -1 is no match. */
export function fuzzyScore(title: string, query: string): number {
  const text = title.toLowerCase();
  const needle = query.trim().toLowerCase();
  if (needle === "") return 0;
  const at = text.indexOf(needle);
  if (at === 0) return 4;
  if (at > 0) return /[^a-z0-9]/.test(text[at - 1] ?? "") ? 3 : 2;
  let from = 0;
  for (const letter of needle) {
    from = text.indexOf(letter, from) + 1;
    if (from === 0) return -1;
  }
  return 1;
}

/** The items that match, best first; items with the same score keep their order. */
export function fuzzyFilter<T>(items: T[], query: string, title: (item: T) => string): T[] {
  return items
    .map((item) => ({ item, score: fuzzyScore(title(item), query) }))
    .filter(({ score }) => score >= 0)
    .sort((a, b) => b.score - a.score)
    .map(({ item }) => item);
}
