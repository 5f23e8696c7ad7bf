// Keys of the page while a terminal has the focus. All others belong to the program in it.

export type Key = Pick<KeyboardEvent, "key" | "code" | "ctrlKey" | "shiftKey" | "altKey" | "metaKey">;

export type TerminalKey = "program" | "palette" | "find" | "copy" | "paste" | { send: string };

export const isMac = (platform: string) => /^(Mac|iPhone|iPad)/.test(platform);

/** Whether it is this letter, on keyboards without Latin letters by its place. */
const isLetter = (key: Key, letter: string) => key.key.toLowerCase() === letter || (key.key > "\x7f" && key.code === `Key${letter.toUpperCase()}`);

/**
 * The shortcut of the command palette: Ctrl+K (Cmd+K on a Mac), and Ctrl+Shift+K. In a terminal Ctrl+K deletes to the
 * end of the line.
 */
export function opensPalette(key: Key, mac: boolean, inTerminal: boolean): boolean {
  if (!isLetter(key, "k") || key.altKey) return false;
  if (key.metaKey) return !key.ctrlKey && !key.shiftKey;
  return key.ctrlKey && (key.shiftKey || !(inTerminal || mac));
}

export function terminalKey(key: Key, mac: boolean, hasSelection: boolean): TerminalKey {
  if (opensPalette(key, mac, true)) return "palette";
  const ctrlShift = key.ctrlKey && key.shiftKey && !key.altKey && !key.metaKey;
  if (ctrlShift && isLetter(key, "f")) return "find";
  if (ctrlShift && isLetter(key, "c") && hasSelection) return "copy";
  if (ctrlShift && isLetter(key, "v")) return "paste";
  // What prompts of coding agents take for a line break. A terminal has no separate code for it.
  if (key.key === "Enter" && key.shiftKey && !key.ctrlKey && !key.altKey && !key.metaKey) return { send: "\x1b\r" };
  return "program";
}
