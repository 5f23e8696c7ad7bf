// Paths in the project's folder, which is called `.`.

export function joined(folder: string, name: string): string {
  return folder === "." ? name : `${folder}/${name}`;
}

export function parent(path: string): string {
  const at = path.lastIndexOf("/");
  if (at < 0) return ".";
  return at === 0 ? "/" : path.slice(0, at);
}
