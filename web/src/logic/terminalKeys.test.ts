import { expect, it } from "vitest";
import { type Key, opensPalette, terminalKey } from "./terminalKeys";

/** A key press such as `ctrl+shift+k`. */
function press(text: string): Key {
  const parts = text.split("+");
  const key = parts.pop() ?? "";
  const has = (name: string) => parts.includes(name);
  const code = /^[a-zа-я]$/i.test(key) ? `Key${key === "л" ? "K" : key.toUpperCase()}` : key;
  return { key: has("shift") ? (key.length === 1 ? key.toUpperCase() : key) : key, code, ctrlKey: has("ctrl"), shiftKey: has("shift"), altKey: has("alt"), metaKey: has("meta") };
}

it("leaves the keys of programs to them", () => {
  for (const letter of "abcdefghijklmnopqrstuvwxyz") {
    expect(terminalKey(press(`ctrl+${letter}`), false, true)).toBe("program");
    expect(terminalKey(press(`alt+${letter}`), false, true)).toBe("program");
  }
  for (const key of ["Enter", "ctrl+Enter", "alt+Enter", "shift+Tab", "Escape", "F1", "ctrl+shift+c"]) expect(terminalKey(press(key), false, false)).toBe("program");
});

it("handles few keys itself", () => {
  expect(terminalKey(press("ctrl+shift+k"), false, false)).toBe("palette");
  expect(terminalKey(press("meta+k"), true, false)).toBe("palette");
  expect(terminalKey(press("ctrl+shift+л"), false, false)).toBe("palette");
  expect(terminalKey(press("ctrl+shift+f"), false, false)).toBe("find");
  expect(terminalKey(press("ctrl+shift+c"), false, true)).toBe("copy");
  expect(terminalKey(press("ctrl+shift+v"), false, false)).toBe("paste");
  expect(terminalKey(press("shift+Enter"), false, false)).toEqual({ send: "\x1b\r" });
});

it("opens the palette outside of a terminal by the shortcut of the system", () => {
  expect(opensPalette(press("ctrl+k"), false, false)).toBe(true);
  expect(opensPalette(press("ctrl+k"), true, false)).toBe(false);
  expect(opensPalette(press("meta+k"), true, false)).toBe(true);
  expect(opensPalette(press("k"), false, false)).toBe(false);
  expect(opensPalette(press("ctrl+alt+k"), false, false)).toBe(false);
});
