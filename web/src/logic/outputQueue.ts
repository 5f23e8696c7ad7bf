// Queue of terminal output that was received and is not on the screen yet; it can skip lines that would never be
// visible.
//
// Parsing terminal output is about ten times slower than a program can print. But of a long run of ordinary lines
// only the last ones remain, as many as the terminal keeps: all lines before them scroll out completely. So the
// front of such a run may be skipped, and the terminal ends in the same state as if it had been shown. That holds
// for text, line ends, tabs and colors, while the terminal is in a state in which lines only scroll; all other
// output is always shown.

/** A chunk of output. `lines` and `colors` are meaningful only if it is plain. */
export interface Chunk {
  bytes: Uint8Array;
  /** Only text, tabs, line ends and colors. */
  plain: boolean;
  /** Line ends: `\r\n`, as a terminal makes them. A bare `\n` keeps the column and is not counted. */
  lines: number;
  /** The colors in effect at the end of the chunk, as the sequences that set them. */
  colors: Uint8Array;
}

const empty = new Uint8Array(0);
/** A longer sequence is not taken for a color sequence. */
const maxColorSequence = 64;
/** Bytes of color sequences without a reset; a chunk with more is treated as not plain. */
const maxColors = 4096;
const escape = 0x1b;

/** Classifies a chunk that begins and ends between two sequences. */
export function classify(bytes: Uint8Array): Chunk {
  const notPlain: Chunk = { bytes, plain: false, lines: 0, colors: empty };
  let lines = 0;
  let colors: number[] = [];
  let last = 0;
  for (let at = 0; at < bytes.length; at++) {
    const byte = bytes[at] as number;
    if (byte >= 0x20) {
      // U+0080 to U+009F are control characters too, and DEL is not text.
      if (byte === 0x7f || (byte === 0xc2 && !((bytes[at + 1] ?? 0) >= 0xa0))) return notPlain;
    } else if (byte === 0x0a) {
      if (last === 0x0d) lines++;
    } else if (byte === escape) {
      const end = colorSequenceEnd(bytes, at);
      if (end === undefined) return notPlain;
      const parameters = bytes.subarray(at + 2, end);
      // `ESC [ m` and `ESC [ 0 m` reset all colors.
      if (parameters.length === 0 || (parameters.length === 1 && parameters[0] === 0x30)) colors = [];
      for (let from = at; from <= end; from++) colors.push(bytes[from] as number);
      if (colors.length > maxColors) return notPlain;
      at = end;
    } else if (byte !== 0x0d && byte !== 0x09) {
      return notPlain;
    }
    last = bytes[at] as number;
  }
  return { bytes, plain: true, lines, colors: colors.length > 0 ? Uint8Array.from(colors) : empty };
}

/** The position of the final `m` if a color sequence begins at `at`. */
function colorSequenceEnd(bytes: Uint8Array, at: number): number | undefined {
  if (bytes[at + 1] !== 0x5b) return undefined;
  for (let end = at + 2; end < at + maxColorSequence; end++) {
    const byte = bytes[end];
    if (byte === 0x6d) return end;
    // Digits, colon and semicolon.
    if (byte === undefined || byte < 0x30 || byte > 0x3b) return undefined;
  }
  return undefined;
}

/** Bytes at the end that belong to an incomplete sequence, character or line end. */
function incompleteLength(bytes: Uint8Array): number {
  const length = bytes.length;
  if (bytes[length - 1] === 0x0d || bytes[length - 1] === 0xc2) return 1;
  const start = bytes.lastIndexOf(escape);
  if (start < 0 || start < length - maxColorSequence) return 0;
  if (start === length - 1) return 1;
  if (bytes[start + 1] !== 0x5b) return 0;
  for (let at = start + 2; at < length; at++) {
    const byte = bytes[at] as number;
    if (byte < 0x30 || byte > 0x3b) return 0;
  }
  return length - start;
}

const concat = (parts: Uint8Array[]) => {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
};

export class OutputQueue {
  private chunks: Chunk[] = [];
  /** An incomplete sequence, until its rest arrives or the screen takes all that is queued. */
  private incomplete = empty;
  /** The start of a sequence was already taken: the next chunk is its rest, which must not be skipped. */
  private sequenceSplit = false;
  /** Bytes in the queue. */
  size = 0;
  /** Bytes that were skipped. */
  skipped = 0;

  push(bytes: Uint8Array) {
    this.size += bytes.length;
    const whole = this.incomplete.length > 0 ? concat([this.incomplete, bytes]) : bytes;
    const keep = incompleteLength(whole);
    this.incomplete = keep > 0 ? whole.slice(whole.length - keep) : empty;
    const body = keep > 0 ? whole.subarray(0, whole.length - keep) : whole;
    if (body.length === 0) return;
    this.chunks.push(this.sequenceSplit ? { bytes: body, plain: false, lines: 0, colors: empty } : classify(body));
    this.sequenceSplit = false;
  }

  /** Whether the next chunk is plain, so that the front of the queue may be skipped. */
  get skippable(): boolean {
    return this.chunks[0]?.plain ?? false;
  }

  /** Skips lines that are pushed out of the terminal by `kept` later lines of the same plain run. */
  skip(kept: number) {
    let end = 0;
    while (this.chunks[end]?.plain) end++;
    let lines = 0;
    let from = end;
    while (from > 0 && lines < kept) lines += this.chunks[--from]?.lines ?? 0;
    if (from === 0) return;
    // The colors that are in effect at the end of the skipped chunks.
    let colors: Uint8Array[] = [];
    for (const chunk of this.chunks.splice(0, from)) {
      this.size -= chunk.bytes.length;
      this.skipped += chunk.bytes.length;
      if (chunk.colors.length === 0) continue;
      if (startsWithReset(chunk.colors)) colors = [];
      colors.push(chunk.colors);
    }
    const first = this.chunks[0];
    if (!first) return;
    let head = 0;
    // Drop the rest of a character whose start was skipped (UTF-8 continuation bytes).
    while (head < 3 && ((first.bytes[head] ?? 0) & 0xc0) === 0x80) head++;
    const bytes = concat([...colors, first.bytes.subarray(head)]);
    this.size += bytes.length - first.bytes.length;
    this.chunks[0] = { ...first, bytes, colors: concat([...colors, first.colors]) };
  }

  /** Removes and returns the next chunk. */
  take(): Chunk | undefined {
    let chunk = this.chunks.shift();
    if (!chunk && this.incomplete.length > 0) {
      // Nothing else is queued: it is shown incomplete, and the screen's own parser waits for its rest.
      chunk = { bytes: this.incomplete, plain: false, lines: 0, colors: empty };
      this.incomplete = empty;
      this.sequenceSplit = true;
    }
    if (chunk) this.size -= chunk.bytes.length;
    return chunk;
  }

  clear() {
    this.chunks = [];
    this.incomplete = empty;
    this.sequenceSplit = false;
    this.size = 0;
  }
}

const startsWithReset = (colors: Uint8Array) => colors[2] === 0x6d || (colors[2] === 0x30 && colors[3] === 0x6d);
