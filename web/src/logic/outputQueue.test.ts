// Skipping of terminal output: the terminal ends in the same state as if all output had been shown.
import { Terminal } from "@xterm/xterm";
import { expect, it } from "vitest";
import { OutputQueue } from "./outputQueue";

const encoder = new TextEncoder();
const decoder = new TextDecoder();
const rows = 10;
const scrollback = 40;

/** The rest of the queue, as text. */
function drain(queue: OutputQueue): string {
  let all = "";
  for (let chunk = queue.take(); chunk; chunk = queue.take()) all += decoder.decode(chunk.bytes);
  return all;
}

/** The content of a terminal after the output: each line with the color of each character, and the cursor. */
async function terminalState(output: Uint8Array[]): Promise<string[]> {
  const term = new Terminal({ allowProposedApi: true, cols: 30, rows, scrollback });
  for (const bytes of output) await new Promise<void>((done) => term.write(bytes, done));
  const { active } = term.buffer;
  const lines = [`cursor ${active.cursorX} ${active.cursorY}`];
  for (let row = 0; row < active.length; row++) {
    const line = active.getLine(row);
    let text = "";
    for (let column = 0; column < 30; column++) {
      const cell = line?.getCell(column);
      text += `${cell?.getChars()}${cell?.getFgColor()}${cell?.isBold() ? "b" : ""} `;
    }
    lines.push(text);
  }
  term.dispose();
  return lines;
}

/** A seeded random number generator. */
function seededRandom(seed: number) {
  let state = seed;
  return (below: number) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state % below;
  };
}

it("gives the terminal the same lines, colors and cursor as the whole output, wherever it is cut", async () => {
  for (let seed = 1; seed <= 12; seed++) {
    const random = seededRandom(seed);
    const parts = ["word ", "größer ", "漢字", "\x1b[31m", "\x1b[1;38;5;99m", "\x1b[0m", "\x1b[m", "\t", "\r\n", "\r\n", "a longer part of a line that wraps "];
    let output = "";
    for (let part = 0; part < 4_000; part++) output += parts[random(parts.length)];
    const bytes = encoder.encode(output);
    const chunks: Uint8Array[] = [];
    for (let at = 0; at < bytes.length; ) {
      const length = 1 + random(700);
      chunks.push(bytes.subarray(at, at + length));
      at += length;
    }
    const queue = new OutputQueue();
    const shown: Uint8Array[] = [];
    for (const [index, chunk] of chunks.entries()) {
      queue.push(chunk);
      if (index % 40 !== 39) continue;
      queue.skip(rows + scrollback + 1);
      const next = queue.take();
      if (next) shown.push(next.bytes);
    }
    queue.skip(rows + scrollback + 1);
    for (let chunk = queue.take(); chunk; chunk = queue.take()) shown.push(chunk.bytes);
    expect(queue.skipped).toBeGreaterThan(bytes.length / 4);
    expect(queue.size).toBe(0);
    expect(await terminalState(shown)).toEqual(await terminalState([bytes]));
  }
});

it("shows all output that does more than scroll", () => {
  for (const sequence of ["\x1b[H", "\x1b[?1049h", "\x1b]0;title\x07", "\b", "\u009b2J", "\x0e", "\x1bM"]) {
    const queue = new OutputQueue();
    const output = `line${sequence}\r\n`.repeat(200);
    queue.push(encoder.encode(output));
    queue.push(encoder.encode(output));
    queue.skip(10);
    expect(drain(queue)).toBe(output + output);
  }
});

it("does not count a line end that keeps the column", () => {
  const queue = new OutputQueue();
  for (let chunk = 0; chunk < 5; chunk++) queue.push(encoder.encode("line\n".repeat(100)));
  queue.skip(10);
  expect(queue.skipped).toBe(0);
});

it("never skips the end of a sequence whose start was shown", () => {
  const queue = new OutputQueue();
  queue.push(encoder.encode("\x1b[3"));
  expect(decoder.decode(queue.take()?.bytes)).toBe("\x1b[3");
  queue.push(encoder.encode("1mred\r\n"));
  for (let chunk = 0; chunk < 5; chunk++) queue.push(encoder.encode("line\r\n".repeat(20)));
  queue.skip(10);
  expect(drain(queue)).toContain("1mred");
});
