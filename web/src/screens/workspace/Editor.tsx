// File editor. A save sends the ETag of the loaded content (If-Match), so that changes by an agent in the meantime
// are never overwritten silently.
import { Alert, Button, Group, Text } from "@mantine/core";
import { closeBrackets, closeBracketsKeymap } from "@codemirror/autocomplete";
import { defaultKeymap, history, historyKeymap, indentWithTab } from "@codemirror/commands";
import { HighlightStyle, bracketMatching, foldGutter, indentOnInput, syntaxHighlighting } from "@codemirror/language";
import { highlightSelectionMatches, search, searchKeymap } from "@codemirror/search";
import { EditorState } from "@codemirror/state";
import { EditorView, drawSelection, highlightActiveLine, highlightSpecialChars, keymap, lineNumbers } from "@codemirror/view";
import { tags } from "@lezer/highlight";
import { useEffect, useRef, useState } from "react";
import { errorMessage, readApiError, send } from "../../api/client";
import { filesUrl } from "../../api/queries";
import { language } from "../../logic/language";
import { formatBytes } from "../../logic/time";

/** Larger files are not opened in the browser's editor. */
const maxSize = 5 * 1024 * 1024;

// Syntax colors for light and dark mode, from CSS variables.
const highlightStyle = HighlightStyle.define([
  { tag: [tags.keyword, tags.operatorKeyword, tags.modifier], color: "var(--code-keyword)" },
  { tag: [tags.string, tags.special(tags.string), tags.regexp], color: "var(--code-string)" },
  { tag: [tags.number, tags.bool, tags.null, tags.atom], color: "var(--code-number)" },
  { tag: tags.comment, color: "var(--code-comment)", fontStyle: "italic" },
  { tag: [tags.function(tags.variableName), tags.function(tags.propertyName)], color: "var(--code-function)" },
  { tag: [tags.typeName, tags.className, tags.tagName], color: "var(--code-type)" },
  { tag: [tags.propertyName, tags.attributeName], color: "var(--code-property)" },
  { tag: tags.heading, fontWeight: "600" },
]);
const editorTheme = EditorView.theme({
  "&": { backgroundColor: "transparent" },
  ".cm-scroller": { fontFamily: "var(--mantine-font-family-monospace)", lineHeight: "1.5" },
  ".cm-gutters": { backgroundColor: "transparent", border: "none", color: "var(--mantine-color-dimmed)" },
  ".cm-activeLine, .cm-activeLineGutter": { backgroundColor: "var(--hover)" },
  ".cm-cursor": { borderLeftColor: "var(--mantine-color-text)" },
  "&.cm-focused": { outline: "none" },
  ".cm-panels": { backgroundColor: "var(--surface)", color: "inherit" },
});

type ViewState = "loading" | "text" | "other";

interface Props {
  id: string;
  path: string;
  readOnly: boolean;
  onDirtyChange: (dirty: boolean) => void;
  onSaved: () => void;
}

export default function Editor({ id, path, readOnly, onDirtyChange, onSaved }: Props) {
  const host = useRef<HTMLDivElement>(null);
  const view = useRef<EditorView>(undefined);
  const etag = useRef("");
  const save = useRef<(force?: boolean) => Promise<void>>(async () => {});
  const [shown, setShown] = useState<ViewState>("loading");
  const [message, setMessage] = useState("");
  const [conflict, setConflict] = useState(false);
  const [dirty, setDirty] = useState(false);
  const [busy, setBusy] = useState(false);
  const [reloads, setReloads] = useState(0);

  const markDirty = (dirty: boolean) => {
    setDirty(dirty);
    onDirtyChange(dirty);
  };
  save.current = async (force = false) => {
    const editor = view.current;
    if (!editor || busy) return;
    const document = editor.state.doc;
    setBusy(true);
    setMessage("");
    try {
      const headers = force ? undefined : { "if-match": etag.current };
      const response = await send(filesUrl(id, path), { method: "PUT", body: document.toString(), headers });
      if (response.status === 412) {
        setConflict(true);
      } else if (!response.ok) {
        throw await readApiError(response);
      } else {
        setConflict(false);
        etag.current = response.headers.get("etag") ?? (await fetchEtag(id, path));
        markDirty(!editor.state.doc.eq(document));
        onSaved();
      }
    } catch (error) {
      setMessage(errorMessage(error));
    }
    setBusy(false);
  };

  useEffect(() => {
    const aborted = new AbortController();
    setShown("loading");
    const load = async () => {
      const response = await send(filesUrl(id, path), { signal: aborted.signal });
      if (!response.ok) throw await readApiError(response);
      const length = Number(response.headers.get("content-length") ?? 0);
      if (length > maxSize) {
        await response.body?.cancel();
        setMessage(`This file is too large to edit here: ${formatBytes(length)}, the limit is ${formatBytes(maxSize)}. Download it, or edit it in the terminal.`);
        setShown("other");
        return;
      }
      etag.current = response.headers.get("etag") ?? "";
      const content = new Uint8Array(await response.arrayBuffer());
      let text: string;
      try {
        text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(content);
      } catch {
        text = "\0";
      }
      if (text.includes("\0")) {
        setMessage(`This is a binary file (${formatBytes(content.length)}). Download it to view it.`);
        setShown("other");
        return;
      }
      const languageSupport = await language(path);
      if (aborted.signal.aborted || !host.current) return;
      setMessage("");
      setConflict(false);
      markDirty(false);
      view.current = new EditorView({
        parent: host.current,
        state: EditorState.create({
          doc: text,
          extensions: [
            lineNumbers(), foldGutter(), highlightSpecialChars(), history(), drawSelection(), indentOnInput(),
            bracketMatching(), closeBrackets(), highlightActiveLine(), highlightSelectionMatches(), search({ top: true }),
            syntaxHighlighting(highlightStyle), editorTheme,
            EditorState.lineSeparator.of(text.includes("\r\n") ? "\r\n" : "\n"),
            EditorState.readOnly.of(readOnly),
            EditorView.contentAttributes.of({ "aria-label": `Content of ${path}`, tabindex: "0" }),
            EditorView.updateListener.of((update) => {
              if (update.docChanged) markDirty(true);
            }),
            keymap.of([
              { key: "Mod-s", preventDefault: true, run: () => (void save.current(), true) },
              ...closeBracketsKeymap, ...defaultKeymap, ...searchKeymap, ...historyKeymap, indentWithTab,
            ]),
            ...(languageSupport ? [languageSupport] : []),
          ],
        }),
      });
      setShown("text");
    };
    load().catch((error: unknown) => {
      if (aborted.signal.aborted) return;
      setMessage(errorMessage(error));
      setShown("other");
    });
    return () => {
      aborted.abort();
      view.current?.destroy();
      view.current = undefined;
    };
  }, [id, path, readOnly, reloads]);

  return (
    <>
      <div className="tools">
        <Text size="sm" className="clip grow" title={path}>
          {path}
          {dirty && <span aria-label="unsaved"> •</span>}
        </Text>
        {shown === "text" && readOnly && (
          <Text size="xs" c="dimmed">
            Read-only
          </Text>
        )}
        {shown === "text" && !readOnly && (
          <Button variant={dirty ? "filled" : "default"} size="compact-xs" disabled={!dirty} loading={busy} onClick={() => void save.current()}>
            Save
          </Button>
        )}
      </div>
      {message && (
        <Alert color={shown === "other" ? "gray" : "red"} role="alert" py="xs" radius={0}>
          {message}
        </Alert>
      )}
      {conflict && (
        <Alert color="yellow" role="alert" py="xs" radius={0} title="The file has changed since you opened it">
          <Group gap="xs">
            <Button variant="default" size="compact-xs" onClick={() => setReloads(reloads + 1)}>
              Discard my changes
            </Button>
            <Button color="red" size="compact-xs" onClick={() => void save.current(true)}>
              Overwrite
            </Button>
          </Group>
        </Alert>
      )}
      <div className="cm-host" ref={host} style={shown === "other" ? { display: "none" } : undefined} />
    </>
  );
}

async function fetchEtag(id: string, path: string): Promise<string> {
  const response = await send(filesUrl(id, path), { headers: { range: "bytes=0-0" } });
  await response.body?.cancel();
  return response.headers.get("etag") ?? "";
}
