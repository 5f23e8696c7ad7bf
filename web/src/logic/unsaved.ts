// Unsaved texts in the browser's storage, so that they survive a reload. An entry is replaced or removed only by the
// tab that wrote or read it: another tab may have other changes of the same file.

/** An edited file: the text and version that the edit began with, and the editor's changes since. */
export interface Unsaved {
  text: string;
  etag: string;
  changes: unknown;
}

type Store = Pick<Storage, "getItem" | "setItem" | "removeItem" | "key" | "length">;

const allPrefix = "fsa.unsaved.";
/** Browsers store about five million characters per site. */
const maxLength = 1_500_000;

function keys(storage: Store, prefix: string): string[] {
  return Array.from({ length: storage.length }, (_, index) => storage.key(index) ?? "").filter((key) => key.startsWith(prefix));
}

/** What has unsaved texts in memory. */
export interface UnsavedKeeper {
  store(): boolean;
  discard(): void;
  /** Discards those of one user in one branch, or in all branches of a project. */
  discardProject(user: string, reference: string): void;
}
export const unsavedKeepers = new Set<UnsavedKeeper>();

/** The number of unsaved texts of this browser. */
export function countUnsaved(storage: Store): number {
  for (const keeper of unsavedKeepers) keeper.store();
  return keys(storage, allPrefix).length;
}

export function discardAllUnsaved(storage: Store) {
  for (const keeper of unsavedKeepers) keeper.discard();
  for (const key of keys(storage, allPrefix)) storage.removeItem(key);
}

/** References of the branches in which the user has unsaved texts. */
export function projectsWithUnsaved(storage: Store, user: string): string[] {
  for (const keeper of unsavedKeepers) keeper.store();
  const prefix = `${allPrefix}${user}.`;
  return [...new Set(keys(storage, prefix).map((key) => key.slice(prefix.length).split(".", 1)[0] ?? ""))];
}

/** For a branch that is deleted, or all branches of a project that the user no longer has. */
export function discardUnsavedOf(storage: Store, user: string, reference: string) {
  for (const keeper of unsavedKeepers) keeper.discardProject(user, reference);
  for (const end of [".", "@"]) for (const key of keys(storage, `${allPrefix}${user}.${reference}${end}`)) storage.removeItem(key);
}

/** The unsaved texts of one user in one branch of a project, by path. */
export class UnsavedTexts {
  private readonly prefix: string;
  /** What this tab wrote or read last. */
  private readonly known = new Map<string, string>();

  constructor(
    private readonly storage: Store,
    user: string,
    project: string,
  ) {
    this.prefix = `${allPrefix}${user}.${project}.`;
  }

  paths(): string[] {
    return keys(this.storage, this.prefix).map((key) => key.slice(this.prefix.length));
  }

  read(path: string): Unsaved | undefined {
    const value = this.storage.getItem(this.prefix + path);
    if (value === null) return undefined;
    this.known.set(path, value);
    try {
      return JSON.parse(value) as Unsaved;
    } catch {
      return undefined;
    }
  }

  /** Whether it is stored: there may be no room, or another tab's changes. */
  write(path: string, unsaved: Unsaved): boolean {
    const value = JSON.stringify(unsaved);
    const key = this.prefix + path;
    const stored = this.storage.getItem(key);
    if (stored === value) return true;
    if (value.length > maxLength || (stored !== null && stored !== this.known.get(path))) return false;
    try {
      this.storage.setItem(key, value);
    } catch {
      // The quota is exceeded. The older text is still there, and must not be restored instead of this one.
      this.remove(path);
      return false;
    }
    this.known.set(path, value);
    return true;
  }

  remove(path: string) {
    if (this.storage.getItem(this.prefix + path) === this.known.get(path)) this.storage.removeItem(this.prefix + path);
    this.known.delete(path);
  }

  /** Removes it, also if another tab wrote it. */
  discard(path: string) {
    this.storage.removeItem(this.prefix + path);
    this.known.delete(path);
  }

  move(from: string, to: string) {
    const unsaved = this.read(from);
    if (unsaved && this.write(to, unsaved)) this.discard(from);
  }
}
