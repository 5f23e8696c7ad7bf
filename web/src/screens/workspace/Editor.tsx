// One file, open for reading and changing. A save names the content that it changes, so that what
// an agent wrote meanwhile is never overwritten unseen.
import { Alert, Button, Group, Text } from "@mantine/core";
import { closeBrackets, closeBracketsKeymap } from "@codemirror/autocomplete";
import { defaultKeymap, history, historyKeymap, indentWithTab } from "@codemirror/commands";
import { HighlightStyle, bracketMatching, foldGutter, indentOnInput, syntaxHighlighting } from "@codemirror/language";
import { highlightSelectionMatches, search, searchKeymap } from "@codemirror/search";
import { EditorState } from "@codemirror/state";
import { EditorView, drawSelection, highlightActiveLine, highlightSpecialChars, keymap, lineNumbers } from "@codemirror/view";
import { tags } from "@lezer/highlight";
import { useEffect, useRef, useState } from "react";
import { refusal, send, sentence } from "../../api/client";
import { filesUrl } from "../../api/queries";
import { language } from "../../logic/language";
import { bytes } from "../../logic/time";

/** Beyond this a browser's editor is no help. */
const largest = 5 * 1024 * 1024;

// Colors that read on light and on dark, by variables of the page.
const colors = HighlightStyle.define([
  { tag: [tags.keyword, tags.operatorKeyword, tags.modifier], color: "var(--code-keyword)" },
  { tag: [tags.string, tags.special(tags.string), tags.regexp], color: "var(--code-string)" },
  { tag: [tags.number, tags.bool, tags.null, tags.atom], color: "var(--code-number)" },
  { tag: tags.comment, color: "var(--code-comment)", fontStyle: "italic" },
  { tag: [tags.function(tags.variableName), tags.function(tags.propertyName)], color: "var(--code-function)" },
  { tag: [tags.typeName, tags.className, tags.tagName], color: "var(--code-type)" },
  { tag: [tags.propertyName, tags.attributeName], color: "var(--code-property)" },
  { tag: tags.heading, fontWeight: "600" },
]);
const frame = EditorView.theme({
  "&": { backgroundColor: "transparent" },
  ".cm-scroller": { fontFamily: "var(--mantine-font-family-monospace)", lineHeight: "1.5" },
  ".cm-gutters": { backgroundColor: "transparent", border: "none", color: "var(--mantine-color-dimmed)" },
  ".cm-activeLine, .cm-activeLineGutter": { backgroundColor: "var(--hover)" },
  ".cm-cursor": { borderLeftColor: "var(--mantine-color-text)" },
  "&.cm-focused": { outline: "none" },
  ".cm-panels": { backgroundColor: "var(--surface)", color: "inherit" },
});

type Shown = "loading" | "text" | "other";

interface Props {
  id: string;
  path: string;
  /** The caller may only read it. */
  reads: boolean;
  dirty: (dirty: boolean) => void;
  saved: () => void;
}

export default function Editor({ id, path, reads, dirty, saved }: Props) {
  const host = useRef<HTMLDivElement>(null);
  const view = useRef<EditorView>(undefined);
  const tag = useRef("");
  const save = useRef<(force?: boolean) => Promise<void>>(async () => {});
  const [shown, setShown] = useState<Shown>("loading");
  const [said, setSaid] = useState("");
  const [conflict, setConflict] = useState(false);
  const [changed, setChanged] = useState(false);
  const [busy, setBusy] = useState(false);
  const [round, setRound] = useState(0);

  const mark = (is: boolean) => {
    setChanged(is);
    dirty(is);
  };
  save.current = async (force = false) => {
    const editor = view.current;
    if (!editor || busy) return;
    const document = editor.state.doc;
    setBusy(true);
    setSaid("");
    try {
      const headers = force ? undefined : { "if-match": tag.current };
      const answer = await send(filesUrl(id, path), { method: "PUT", body: document.toString(), headers });
      if (answer.status === 412) {
        setConflict(true);
      } else if (!answer.ok) {
        throw await refusal(answer);
      } else {
        setConflict(false);
        tag.current = answer.headers.get("etag") ?? (await currentTag(id, path));
        mark(!editor.state.doc.eq(document));
        saved();
      }
    } catch (error) {
      setSaid(sentence(error));
    }
    setBusy(false);
  };

  useEffect(() => {
    const ended = new AbortController();
    setShown("loading");
    const load = async () => {
      const answer = await send(filesUrl(id, path), { signal: ended.signal });
      if (!answer.ok) throw await refusal(answer);
      const length = Number(answer.headers.get("content-length") ?? 0);
      if (length > largest) {
        await answer.body?.cancel();
        setSaid(`This file has ${bytes(length)}; up to ${bytes(largest)} can be changed here. Download it, or use an editor in the terminal.`);
        setShown("other");
        return;
      }
      tag.current = answer.headers.get("etag") ?? "";
      const content = new Uint8Array(await answer.arrayBuffer());
      let text: string;
      try {
        text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(content);
      } catch {
        text = "\0";
      }
      if (text.includes("\0")) {
        setSaid(`This file is not text (${bytes(content.length)}). Download it to look at it.`);
        setShown("other");
        return;
      }
      const mode = await language(path);
      if (ended.signal.aborted || !host.current) return;
      setSaid("");
      setConflict(false);
      mark(false);
      view.current = new EditorView({
        parent: host.current,
        state: EditorState.create({
          doc: text,
          extensions: [
            lineNumbers(), foldGutter(), highlightSpecialChars(), history(), drawSelection(), indentOnInput(),
            bracketMatching(), closeBrackets(), highlightActiveLine(), highlightSelectionMatches(), search({ top: true }),
            syntaxHighlighting(colors), frame,
            EditorState.lineSeparator.of(text.includes("\r\n") ? "\r\n" : "\n"),
            EditorState.readOnly.of(reads),
            EditorView.contentAttributes.of({ "aria-label": `Content of ${path}`, tabindex: "0" }),
            EditorView.updateListener.of((update) => {
              if (update.docChanged) mark(true);
            }),
            keymap.of([
              { key: "Mod-s", preventDefault: true, run: () => (void save.current(), true) },
              ...closeBracketsKeymap, ...defaultKeymap, ...searchKeymap, ...historyKeymap, indentWithTab,
            ]),
            ...(mode ? [mode] : []),
          ],
        }),
      });
      setShown("text");
    };
    load().catch((error: unknown) => {
      if (ended.signal.aborted) return;
      setSaid(sentence(error));
      setShown("other");
    });
    return () => {
      ended.abort();
      view.current?.destroy();
      view.current = undefined;
    };
  }, [id, path, reads, round]);

  return (
    <>
      <div className="tools">
        <Text size="sm" className="clip grow" title={path}>
          {path}
          {changed && <span aria-label="not saved"> •</span>}
        </Text>
        {shown === "text" && reads && (
          <Text size="xs" c="dimmed">
            You may read it.
          </Text>
        )}
        {shown === "text" && !reads && (
          <Button variant={changed ? "filled" : "default"} size="compact-xs" disabled={!changed} loading={busy} onClick={() => void save.current()}>
            Save
          </Button>
        )}
      </div>
      {said && (
        <Alert color={shown === "other" ? "gray" : "red"} role="alert" py="xs" radius={0}>
          {said}
        </Alert>
      )}
      {conflict && (
        <Alert color="yellow" role="alert" py="xs" radius={0} title="The file was changed meanwhile">
          <Group gap="xs">
            <Button variant="default" size="compact-xs" onClick={() => setRound(round + 1)}>
              Read it again, drop mine
            </Button>
            <Button color="red" size="compact-xs" onClick={() => void save.current(true)}>
              Save mine over it
            </Button>
          </Group>
        </Alert>
      )}
      <div className="cm-host" ref={host} style={shown === "other" ? { display: "none" } : undefined} />
    </>
  );
}

async function currentTag(id: string, path: string): Promise<string> {
  const answer = await send(filesUrl(id, path), { headers: { range: "bytes=0-0" } });
  await answer.body?.cancel();
  return answer.headers.get("etag") ?? "";
}
