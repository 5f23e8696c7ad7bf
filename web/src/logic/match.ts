// Which of many titles a few letters mean.

/** How well `query` fits; -1 where it does not. */
export function score(title: string, query: string): number {
  const text = title.toLowerCase();
  const wanted = query.trim().toLowerCase();
  if (wanted === "") return 0;
  const at = text.indexOf(wanted);
  if (at === 0) return 4;
  if (at > 0) return /[^a-z0-9]/.test(text[at - 1] ?? "") ? 3 : 2;
  let from = 0;
  for (const letter of wanted) {
    from = text.indexOf(letter, from) + 1;
    if (from === 0) return -1;
  }
  return 1;
}

/** Those that fit, the best first; equals keep their order. */
export function ranked<T>(items: T[], query: string, title: (item: T) => string): T[] {
  return items
    .map((item) => ({ item, fit: score(title(item), query) }))
    .filter(({ fit }) => fit >= 0)
    .sort((a, b) => b.fit - a.fit)
    .map(({ item }) => item);
}
