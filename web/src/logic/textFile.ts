// Text of a file as the editor has it, with lines that end with "\n", and back to the file's bytes. What was not edited
// keeps its line endings, its byte order mark and its missing final newline.
import { type ChangeSet, Text } from "@codemirror/state";

export interface TextFile {
  doc: Text;
  /** Begins with a byte order mark, which is not part of `doc`. */
  bom: boolean;
  /** For each line break of `doc`, 1 if it is CRLF in the file, 0 if it is LF. A lone CR is part of its line. */
  crlf: Uint8Array;
}

const byteOrderMark = "\ufeff";

/** The text of these bytes, or why they are none. */
export function decode(bytes: Uint8Array): TextFile | "binary" | "not UTF-8" {
  if (bytes.includes(0)) return "binary";
  try {
    return fromText(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes));
  } catch {
    return "not UTF-8";
  }
}

export function fromText(text: string): TextFile {
  const bom = text.startsWith(byteOrderMark);
  const lines: string[] = [];
  const crlf: number[] = [];
  let from = bom ? 1 : 0;
  for (let at = text.indexOf("\n", from); at >= 0; at = text.indexOf("\n", from)) {
    const isCrlf = at > from && text[at - 1] === "\r";
    crlf.push(Number(isCrlf));
    lines.push(text.slice(from, isCrlf ? at - 1 : at));
    from = at + 1;
  }
  lines.push(text.slice(from));
  return { doc: Text.of(lines), bom, crlf: Uint8Array.from(crlf) };
}

export function toText(file: TextFile): string {
  const parts = file.bom ? [byteOrderMark] : [];
  let line = 0;
  for (const iterator = file.doc.iterLines(); !iterator.next().done; line++) {
    parts.push(iterator.value);
    if (line < file.crlf.length) parts.push(file.crlf[line] ? "\r\n" : "\n");
  }
  return parts.join("");
}

export const sameFile = (a: TextFile, b: TextFile) => a.bom === b.bom && a.doc.eq(b.doc) && a.crlf.every((one, at) => one === b.crlf[at]);

/** The file after an edit. A new line break is of the kind that the file has most. */
export function edited(file: TextFile, changes: ChangeSet): TextFile {
  const doc = changes.apply(file.doc);
  const crlf = new Uint8Array(doc.lines - 1).fill(Number(file.crlf.reduce((sum, one) => sum + one, 0) * 2 > file.crlf.length));
  const keep = (fromA: number, fromB: number, length: number) => {
    const first = file.doc.lineAt(fromA).number - 1;
    const end = file.doc.lineAt(fromA + length).number - 1;
    crlf.set(file.crlf.subarray(first, end), doc.lineAt(fromB).number - 1);
  };
  let [lastA, lastB] = [0, 0];
  changes.iterChanges((fromA, toA, fromB, toB) => {
    keep(lastA, lastB, fromA - lastA);
    [lastA, lastB] = [toA, toB];
    // An edit that was undone, or a text that was replaced by a similar one.
    const [start, end] = commonEnds(file.doc.sliceString(fromA, toA), doc.sliceString(fromB, toB));
    keep(fromA, fromB, start);
    keep(toA - end, toB - end, end);
    const breaks = (text: Text, from: number, to: number) => text.lineAt(to).number - text.lineAt(from).number;
    const [middleA, middleB] = [fromA + start, fromB + start];
    if (breaks(file.doc, middleA, toA - end) === breaks(doc, middleB, toB - end)) {
      const first = file.doc.lineAt(middleA).number - 1;
      crlf.set(file.crlf.subarray(first, first + breaks(doc, middleB, toB - end)), doc.lineAt(middleB).number - 1);
    }
  });
  keep(lastA, lastB, file.doc.length - lastA);
  return { doc, bom: file.bom, crlf };
}

/** The smallest single replacement that makes `to` out of `from`. */
export function replacement(from: Text, to: Text): { from: number; to: number; insert: Text } {
  const [start, end] = commonEnds(from.toString(), to.toString());
  return { from: start, to: from.length - end, insert: to.slice(start, to.length - end) };
}

/** Lengths of the common beginning and of the common end, which do not overlap. */
function commonEnds(a: string, b: string): [number, number] {
  const most = Math.min(a.length, b.length);
  let start = 0;
  while (start < most && a.charCodeAt(start) === b.charCodeAt(start)) start++;
  let end = 0;
  while (end < most - start && a.charCodeAt(a.length - 1 - end) === b.charCodeAt(b.length - 1 - end)) end++;
  return [start, end];
}
