import { describe, expect, it } from "vitest";
import { UnsavedTexts, countUnsaved, discardAllUnsaved, discardUnsavedOf, projectsWithUnsaved, unsavedKeepers } from "./unsaved";

class MemoryStorage {
  private entries = new Map<string, string>();
  constructor(private readonly quota = Number.POSITIVE_INFINITY) {}
  get length() {
    return this.entries.size;
  }
  key = (index: number) => [...this.entries.keys()][index] ?? null;
  getItem = (key: string) => this.entries.get(key) ?? null;
  removeItem = (key: string) => void this.entries.delete(key);
  setItem = (key: string, value: string) => {
    if (value.length > this.quota) throw new Error("QuotaExceededError");
    this.entries.set(key, value);
  };
}

const unsaved = (text: string) => ({ text, etag: '"1"', changes: [] });

describe("unsaved texts", () => {
  it("survive a reload, each in its project", () => {
    const storage = new MemoryStorage();
    expect(new UnsavedTexts(storage, "me", "one").write("a.b/c", unsaved("x"))).toBe(true);
    const after = new UnsavedTexts(storage, "me", "one");
    expect(after.paths()).toEqual(["a.b/c"]);
    expect(after.read("a.b/c")).toEqual(unsaved("x"));
    expect(new UnsavedTexts(storage, "me", "two").paths()).toEqual([]);
    expect(new UnsavedTexts(storage, "other", "one").paths()).toEqual([]);
    after.move("a.b/c", "d");
    expect([after.paths(), after.read("d")]).toEqual([["d"], unsaved("x")]);
    after.remove("d");
    expect(after.paths()).toEqual([]);
  });

  it("of another tab are neither replaced nor removed", () => {
    const storage = new MemoryStorage();
    const [one, other] = [new UnsavedTexts(storage, "me", "p"), new UnsavedTexts(storage, "me", "p")];
    one.write("f", unsaved("one"));
    expect(other.write("f", unsaved("other"))).toBe(false);
    other.remove("f");
    expect(one.read("f")).toEqual(unsaved("one"));
    // A tab that has read them continues them.
    other.read("f");
    expect(other.write("f", unsaved("other"))).toBe(true);
    expect(one.write("f", unsaved("one more"))).toBe(false);
  });

  it("are reported if they do not fit, and no older text remains", () => {
    const storage = new MemoryStorage(100);
    const texts = new UnsavedTexts(storage, "me", "p");
    expect(texts.write("f", unsaved("short"))).toBe(true);
    expect(texts.write("f", unsaved("x".repeat(200)))).toBe(false);
    expect(texts.paths()).toEqual([]);
    expect(new UnsavedTexts(new MemoryStorage(), "me", "p").write("f", unsaved("x".repeat(2_000_000)))).toBe(false);
  });

  it("of a project or a branch that is gone are discarded, and no others", () => {
    const storage = new MemoryStorage();
    for (const [user, project] of [["me", "gone"], ["me", "gone@branch"], ["me", "gone-too"], ["me", "kept"], ["me", "kept@branch"], ["other", "gone"]] as const) {
      new UnsavedTexts(storage, user, project).write("a.b/c", unsaved("x"));
    }
    new UnsavedTexts(storage, "me", "gone").write("d", unsaved("y"));
    expect(projectsWithUnsaved(storage, "me").sort()).toEqual(["gone", "gone-too", "gone@branch", "kept", "kept@branch"]);
    const inMemory: string[] = [];
    const keeper = { store: () => true, discard: () => {}, discardProject: (user: string, project: string) => void inMemory.push(user, project) };
    unsavedKeepers.add(keeper);
    discardUnsavedOf(storage, "me", "gone");
    discardUnsavedOf(storage, "me", "kept@branch");
    unsavedKeepers.delete(keeper);
    expect(inMemory).toEqual(["me", "gone", "me", "kept@branch"]);
    expect(projectsWithUnsaved(storage, "me")).toEqual(["gone-too", "kept"]);
    expect(projectsWithUnsaved(storage, "other")).toEqual(["gone"]);
  });

  it("are counted and discarded together", () => {
    const storage = new MemoryStorage();
    storage.setItem("fsa.panes", "50");
    new UnsavedTexts(storage, "me", "p").write("f", unsaved("x"));
    expect(countUnsaved(storage)).toBe(1);
    discardAllUnsaved(storage);
    expect([countUnsaved(storage), storage.length]).toEqual([0, 1]);
  });
});
