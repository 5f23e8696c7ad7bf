// Output that has come and is not on the screen yet, in order; and which of it nobody can ever see.
//
// A parser of terminal output is some ten times slower than what a program can print. But of a long
// run of ordinary lines only the last ones remain, as many as the terminal keeps: what is before
// them scrolls away whole. So the front of such a run may be left out, and the terminal is the same
// afterwards as if it had been shown. That holds for text, line ends, tabs and colors, where the
// terminal is in a state in which lines only scroll; anything else is always shown.

/** One piece of output. `lines` and `colors` mean something only where it is plain. */
export interface Piece {
  bytes: Uint8Array;
  /** Nothing but text, tabs, line ends and colors. */
  plain: boolean;
  /** Line ends: `\r\n`, as a terminal makes them. A bare `\n` keeps the column, so it counts nothing. */
  lines: number;
  /** The colors that it leaves behind, as the sequences that set them. */
  colors: Uint8Array;
}

const none = new Uint8Array(0);
/** A sequence of colors that is longer is no such sequence. */
const longestColor = 64;
/** Colors without one that takes all back: beyond, the piece is shown like any other. */
const mostColors = 4096;
const escape = 0x1b;

/** Judges a piece of output that begins and ends between two sequences. */
export function judged(bytes: Uint8Array): Piece {
  const strange: Piece = { bytes, plain: false, lines: 0, colors: none };
  let lines = 0;
  let colors: number[] = [];
  let last = 0;
  for (let at = 0; at < bytes.length; at++) {
    const byte = bytes[at] as number;
    if (byte >= 0x20) {
      // U+0080 to U+009F are controls too, and delete is none that a text has.
      if (byte === 0x7f || (byte === 0xc2 && !((bytes[at + 1] ?? 0) >= 0xa0))) return strange;
    } else if (byte === 0x0a) {
      if (last === 0x0d) lines++;
    } else if (byte === escape) {
      const end = colorEnd(bytes, at);
      if (end === undefined) return strange;
      const all = bytes.subarray(at + 2, end);
      // `ESC [ m` and `ESC [ 0 m` take all colors back.
      if (all.length === 0 || (all.length === 1 && all[0] === 0x30)) colors = [];
      for (let from = at; from <= end; from++) colors.push(bytes[from] as number);
      if (colors.length > mostColors) return strange;
      at = end;
    } else if (byte !== 0x0d && byte !== 0x09) {
      return strange;
    }
    last = bytes[at] as number;
  }
  return { bytes, plain: true, lines, colors: colors.length > 0 ? Uint8Array.from(colors) : none };
}

/** Where the sequence of colors that begins here has its `m`, if it is one. */
function colorEnd(bytes: Uint8Array, at: number): number | undefined {
  if (bytes[at + 1] !== 0x5b) return undefined;
  for (let end = at + 2; end < at + longestColor; end++) {
    const byte = bytes[end];
    if (byte === 0x6d) return end;
    // Digits, colon and semicolon.
    if (byte === undefined || byte < 0x30 || byte > 0x3b) return undefined;
  }
  return undefined;
}

/** How many bytes at the end belong to a sequence or a line end whose rest is still to come. */
function unfinished(bytes: Uint8Array): number {
  const length = bytes.length;
  if (bytes[length - 1] === 0x0d || bytes[length - 1] === 0xc2) return 1;
  const begins = bytes.lastIndexOf(escape);
  if (begins < 0 || begins < length - longestColor) return 0;
  if (begins === length - 1) return 1;
  if (bytes[begins + 1] !== 0x5b) return 0;
  for (let at = begins + 2; at < length; at++) {
    const byte = bytes[at] as number;
    if (byte < 0x30 || byte > 0x3b) return 0;
  }
  return length - begins;
}

const joined = (parts: Uint8Array[]) => {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
};

export class Backlog {
  private pieces: Piece[] = [];
  /** The beginning of a sequence, until its end comes or the screen wants all there is. */
  private rest = none;
  /** Such a beginning was shown already: what comes next is its end, which nothing may leave out. */
  private torn = false;
  /** Bytes that wait. */
  size = 0;
  /** Bytes that were never shown. */
  skipped = 0;

  push(bytes: Uint8Array) {
    this.size += bytes.length;
    const whole = this.rest.length > 0 ? joined([this.rest, bytes]) : bytes;
    const keep = unfinished(whole);
    this.rest = keep > 0 ? whole.slice(whole.length - keep) : none;
    const body = keep > 0 ? whole.subarray(0, whole.length - keep) : whole;
    if (body.length === 0) return;
    this.pieces.push(this.torn ? { bytes: body, plain: false, lines: 0, colors: none } : judged(body));
    this.torn = false;
  }

  /** Whether what is shown next belongs to a run of which the front may be left out. */
  get runs(): boolean {
    return this.pieces[0]?.plain ?? false;
  }

  /** Leaves out what `kept` later lines of the same run push out of the terminal. */
  skip(kept: number) {
    let end = 0;
    while (this.pieces[end]?.plain) end++;
    let lines = 0;
    let from = end;
    while (from > 0 && lines < kept) lines += this.pieces[--from]?.lines ?? 0;
    if (from === 0) return;
    // The colors that were set before the first piece that is kept hold in it.
    let colors: Uint8Array[] = [];
    for (const piece of this.pieces.splice(0, from)) {
      this.size -= piece.bytes.length;
      this.skipped += piece.bytes.length;
      if (piece.colors.length === 0) continue;
      if (takesBack(piece.colors)) colors = [];
      colors.push(piece.colors);
    }
    const first = this.pieces[0];
    if (!first) return;
    let head = 0;
    // The rest of a letter whose beginning was left out.
    while (head < 3 && ((first.bytes[head] ?? 0) & 0xc0) === 0x80) head++;
    const bytes = joined([...colors, first.bytes.subarray(head)]);
    this.size += bytes.length - first.bytes.length;
    this.pieces[0] = { ...first, bytes, colors: joined([...colors, first.colors]) };
  }

  /** The next piece to show. */
  take(): Piece | undefined {
    let piece = this.pieces.shift();
    if (!piece && this.rest.length > 0) {
      // Nothing else is here: it is shown as it is, and the screen's own parser waits for its end.
      piece = { bytes: this.rest, plain: false, lines: 0, colors: none };
      this.rest = none;
      this.torn = true;
    }
    if (piece) this.size -= piece.bytes.length;
    return piece;
  }

  clear() {
    this.pieces = [];
    this.rest = none;
    this.torn = false;
    this.size = 0;
  }
}

const takesBack = (colors: Uint8Array) => colors[2] === 0x6d || (colors[2] === 0x30 && colors[3] === 0x6d);
