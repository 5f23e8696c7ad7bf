// Open files of the editor, by user and branch. They outlive the view: their text is kept while another file or view is
// shown, and unsaved text also over a reload. The files themselves are in editedFile.ts, which is loaded with the editor.
import { UnsavedTexts, unsavedKeepers } from "../../logic/unsaved";

/** Files without unsaved text that stay in memory while they are not shown. */
const maxIdle = 20;

export interface OpenFile {
  readonly path: string;
  readonly dirty: boolean;
  /** Whether unsaved text is in the browser's storage. */
  readonly stored: boolean;
  /** Copies unsaved text to the browser's storage, or removes the copy. */
  store(): void;
  /** Ends the file's life in memory, and removes unsaved text. */
  forget(): void;
  /** The file after it was renamed. */
  renamed(path: string): OpenFile;
}

/** The open files of a user in a branch, which `project` is a reference of. */
export class OpenFiles {
  readonly unsaved: UnsavedTexts;
  private readonly files = new Map<string, OpenFile>();
  private readonly listeners = new Set<() => void>();
  private version = 0;

  constructor(
    readonly project: string,
    user: string,
  ) {
    this.unsaved = new UnsavedTexts(localStorage, user, project);
  }

  /** The open file at this path, which `create` makes if there is none. */
  open<File extends OpenFile>(path: string, create: (files: OpenFiles, path: string) => File): File {
    const known = this.files.get(path);
    // Only one kind of file exists.
    if (known) return known as File;
    const idle = [...this.files.values()].filter((file) => !file.dirty);
    for (const file of idle.slice(0, -maxIdle)) this.files.delete(file.path);
    const file = create(this, path);
    this.files.set(path, file);
    return file;
  }

  /** Paths of files with unsaved text, sorted. */
  dirtyPaths(): string[] {
    const opened = [...this.files.values()].filter((file) => file.dirty);
    const stored = this.unsaved.paths().filter((path) => !this.files.has(path));
    return [...opened.map((file) => file.path), ...stored].sort();
  }

  /** A file or folder was renamed. */
  move(from: string, to: string) {
    for (const path of this.below(from)) {
      const file = this.files.get(path);
      const target = to + path.slice(from.length);
      if (file) {
        this.files.delete(path);
        this.files.set(target, file.renamed(target));
      } else {
        this.unsaved.move(path, target);
      }
    }
    this.notify();
  }

  /** A file or folder was deleted. */
  remove(path: string) {
    this.discard(this.below(path));
  }

  /** The project was deleted, or the user lost access to it. */
  discardAll() {
    this.discard([...this.files.keys(), ...this.unsaved.paths()]);
  }

  private discard(paths: string[]) {
    for (const one of paths) {
      const file = this.files.get(one);
      if (file) file.forget();
      else this.unsaved.discard(one);
      this.files.delete(one);
    }
    this.notify();
  }

  /** Stores all unsaved text now. Whether closing the page loses none. */
  store(): boolean {
    const dirty = [...this.files.values()].filter((file) => file.dirty);
    for (const file of dirty) file.store();
    return dirty.every((file) => file.stored);
  }

  /** The user has signed out. The view that shows a file is left next, so nothing is rendered for it. */
  forget() {
    for (const file of this.files.values()) file.forget();
  }

  private below(path: string): string[] {
    return [...new Set([...this.files.keys(), ...this.unsaved.paths()])].filter((one) => one === path || one.startsWith(`${path}/`));
  }

  subscribe = (listener: () => void) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };

  snapshot = () => this.version;

  notify() {
    this.version++;
    for (const listener of this.listeners) listener();
  }
}

const all = new Map<string, OpenFiles>();
const keyOf = (project: string, user: string) => `${user} ${project}`;

export function openFiles(project: string, user: string): OpenFiles {
  const key = keyOf(project, user);
  let files = all.get(key);
  if (!files) {
    files = new OpenFiles(project, user);
    all.set(key, files);
  }
  return files;
}

// All are stored, also after one that is not.
const store = () => ![...all.values()].map((files) => files.store()).includes(false);
const discard = () => {
  for (const files of all.values()) files.forget();
  all.clear();
};
const discardProject = (user: string, reference: string) => {
  const key = keyOf(reference, user);
  for (const [one, files] of all) if (one === key || one.startsWith(`${key}@`)) files.discardAll();
};
unsavedKeepers.add({ store, discard, discardProject });

addEventListener("beforeunload", (event) => {
  if (!store()) event.preventDefault();
});
