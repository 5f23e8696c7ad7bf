// Property tests: bytes that were not edited stay.
import { ChangeSet, type Text } from "@codemirror/state";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type TextFile, decode, edited, fromText, replacement, toText } from "./textFile";

const piece = fc.constantFrom("a", "b", "é", "👍", "\u2028", "\f", "\r", "\n", "\r\n", "\ufeff");
const text = fc.array(piece, { maxLength: 30 }).map((pieces) => pieces.join(""));
const encoder = new TextEncoder();

function textFile(content: string): TextFile {
  const file = decode(encoder.encode(content));
  if (typeof file === "string") throw new Error(file);
  return file;
}

/** An edit in one to three places, as an editor makes it: inserted line breaks are "\n". */
const edit = fc.array(fc.tuple(fc.nat(), fc.nat({ max: 5 }), fc.array(fc.constantFrom("x", "y", "\n"), { maxLength: 4 })), { minLength: 1, maxLength: 3 });
function changesOf(doc: Text, edits: [number, number, string[]][]): ChangeSet {
  let changes = ChangeSet.empty(doc.length);
  for (const [at, length, inserted] of edits) {
    const now = changes.newLength;
    const from = at % (now + 1);
    changes = changes.compose(ChangeSet.of({ from, to: Math.min(now, from + length), insert: inserted.join("") }, now));
  }
  return changes;
}

/** The file's lines with their endings. */
const lines = (content: string) => content.match(/[^\n]*\n|[^\n]+$/g) ?? [];

describe("a text file", () => {
  it("has the same bytes if nothing was edited", () => {
    fc.assert(
      fc.property(text, (content) => {
        expect(toText(textFile(content))).toBe(content);
      }),
    );
    fc.assert(
      fc.property(text, (content) => {
        const file = textFile(content);
        expect(toText(edited(file, ChangeSet.empty(file.doc.length)))).toBe(content);
      }),
    );
  });

  it("keeps all lines before and after an edit", () => {
    fc.assert(
      fc.property(text, edit, (content, edits) => {
        const file = textFile(content);
        const changes = changesOf(file.doc, edits);
        const after = edited(file, changes);
        expect(after.doc.eq(changes.apply(file.doc))).toBe(true);
        let [first, last] = [file.doc.length, 0];
        changes.iterChangedRanges((from, to) => {
          first = Math.min(first, from);
          last = Math.max(last, to);
        });
        const before = lines(content).slice(0, file.doc.lineAt(first).number - 1);
        const rest = lines(content).slice(file.doc.lineAt(last).number);
        const result = lines(toText(after));
        expect(result.slice(0, before.length)).toEqual(before);
        expect(result.slice(result.length - rest.length)).toEqual(rest);
      }),
    );
  });

  it("has the same bytes again after an edit was undone", () => {
    fc.assert(
      fc.property(text, edit, (content, edits) => {
        const file = textFile(content);
        const changes = changesOf(file.doc, edits);
        expect(toText(edited(file, changes.compose(changes.invert(file.doc))))).toBe(content);
      }),
    );
  });

  it("changes into another by one replacement", () => {
    fc.assert(
      fc.property(text, text, (one, other) => {
        const [from, to] = [fromText(one).doc, fromText(other).doc];
        expect(ChangeSet.of(replacement(from, to), from.length).apply(from).eq(to)).toBe(true);
      }),
    );
  });

  it("changes only the edited lines of mixed endings", () => {
    const file = textFile("\ufeffa\r\nb\nc\r\nd");
    const at = file.doc.line(2).to;
    const after = edited(file, ChangeSet.of({ from: at, insert: "!\nnew" }, file.doc.length));
    expect(toText(after)).toBe("\ufeffa\r\nb!\r\nnew\nc\r\nd");
  });

  it("keeps the endings of lines that are replaced by as many", () => {
    const file = textFile("a\r\nb\nc\r\n");
    expect(toText(edited(file, ChangeSet.of({ from: 0, to: file.doc.length, insert: "x\ny\nz\n" }, file.doc.length)))).toBe("x\r\ny\nz\r\n");
  });

  it("is neither binary nor in another encoding", () => {
    expect(decode(new Uint8Array([0x50, 0x4b, 0]))).toBe("binary");
    expect(decode(encoder.encode("text\0"))).toBe("binary");
    expect(decode(new Uint8Array([0xe9, 0x74, 0xe9]))).toBe("not UTF-8");
  });
});
