// What may be left out of a flood of output: the terminal must be the same as if all was shown.
import { Terminal } from "@xterm/xterm";
import { expect, it } from "vitest";
import { Backlog } from "./backlog";

const text = new TextEncoder();
const words = new TextDecoder();
const rows = 10;
const scrollback = 40;

/** The rest of the backlog, as text. */
function drained(backlog: Backlog): string {
  let all = "";
  for (let piece = backlog.take(); piece; piece = backlog.take()) all += words.decode(piece.bytes);
  return all;
}

/** What a terminal holds afterwards: each line, with the color of each of its letters. */
async function held(pieces: Uint8Array[]): Promise<string[]> {
  const term = new Terminal({ allowProposedApi: true, cols: 30, rows, scrollback });
  for (const piece of pieces) await new Promise<void>((done) => term.write(piece, done));
  const { active } = term.buffer;
  const lines = [`cursor ${active.cursorX} ${active.cursorY}`];
  for (let row = 0; row < active.length; row++) {
    const line = active.getLine(row);
    let said = "";
    for (let column = 0; column < 30; column++) {
      const cell = line?.getCell(column);
      said += `${cell?.getChars()}${cell?.getFgColor()}${cell?.isBold() ? "b" : ""} `;
    }
    lines.push(said);
  }
  term.dispose();
  return lines;
}

/** Numbers that are the same each time. */
function dice(seed: number) {
  let state = seed;
  return (most: number) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state % most;
  };
}

it("gives the terminal the same lines, colors and cursor as the whole output, wherever it is cut", async () => {
  for (let seed = 1; seed <= 12; seed++) {
    const roll = dice(seed);
    const parts = ["word ", "größer ", "漢字", "\x1b[31m", "\x1b[1;38;5;99m", "\x1b[0m", "\x1b[m", "\t", "\r\n", "\r\n", "a longer part of a line that wraps "];
    let output = "";
    for (let part = 0; part < 4_000; part++) output += parts[roll(parts.length)];
    const bytes = text.encode(output);
    const pieces: Uint8Array[] = [];
    for (let at = 0; at < bytes.length; ) {
      const length = 1 + roll(700);
      pieces.push(bytes.subarray(at, at + length));
      at += length;
    }
    const backlog = new Backlog();
    const given: Uint8Array[] = [];
    for (const [index, piece] of pieces.entries()) {
      backlog.push(piece);
      if (index % 40 !== 39) continue;
      backlog.skip(rows + scrollback + 1);
      const next = backlog.take();
      if (next) given.push(next.bytes);
    }
    backlog.skip(rows + scrollback + 1);
    for (let piece = backlog.take(); piece; piece = backlog.take()) given.push(piece.bytes);
    expect(backlog.skipped).toBeGreaterThan(bytes.length / 4);
    expect(backlog.size).toBe(0);
    expect(await held(given)).toEqual(await held([bytes]));
  }
});

it("shows everything of output that does more than scroll", () => {
  for (const strange of ["\x1b[H", "\x1b[?1049h", "\x1b]0;title\x07", "\b", "\u009b2J", "\x0e", "\x1bM"]) {
    const backlog = new Backlog();
    const output = `line${strange}\r\n`.repeat(200);
    backlog.push(text.encode(output));
    backlog.push(text.encode(output));
    backlog.skip(10);
    expect(drained(backlog)).toBe(output + output);
  }
});

it("counts no line end that keeps the column", () => {
  const backlog = new Backlog();
  for (let piece = 0; piece < 5; piece++) backlog.push(text.encode("line\n".repeat(100)));
  backlog.skip(10);
  expect(backlog.skipped).toBe(0);
});

it("never leaves out the end of a sequence whose beginning was shown", () => {
  const backlog = new Backlog();
  backlog.push(text.encode("\x1b[3"));
  expect(words.decode(backlog.take()?.bytes)).toBe("\x1b[3");
  backlog.push(text.encode("1mred\r\n"));
  for (let piece = 0; piece < 5; piece++) backlog.push(text.encode("line\r\n".repeat(20)));
  backlog.skip(10);
  expect(drained(backlog)).toContain("1mred");
});
