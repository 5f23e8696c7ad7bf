// An open file of the editor: its text, cursor and undo history. A save sends the tag of the version that was read
// (If-Match), so changes by an agent in the meantime are never overwritten silently; a file without unsaved text follows
// the disk.
import { closeBrackets, closeBracketsKeymap } from "@codemirror/autocomplete";
import { defaultKeymap, history, historyKeymap, indentWithTab } from "@codemirror/commands";
import { HighlightStyle, bracketMatching, foldGutter, indentOnInput, syntaxHighlighting } from "@codemirror/language";
import { highlightSelectionMatches, search, searchKeymap } from "@codemirror/search";
import { ChangeSet, Compartment, EditorState, type StateEffect, Transaction } from "@codemirror/state";
import { EditorView, drawSelection, highlightActiveLine, highlightSpecialChars, keymap, lineNumbers } from "@codemirror/view";
import { tags } from "@lezer/highlight";
import { errorMessage, readApiError, send } from "../../api/client";
import { filesUrl } from "../../api/queries";
import { language } from "../../logic/language";
import { type TextFile, decode, edited, fromText, replacement, sameFile, toText } from "../../logic/textFile";
import { formatBytes } from "../../logic/time";
import type { OpenFile, OpenFiles } from "./openFiles";

/** Larger files are not opened in the browser's editor. */
const maxSize = 5 * 1024 * 1024;
/** Delay between an edit and its copy in the browser's storage. */
const storeDelay = 300;

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

/** How the file on disk differs from the one that the unsaved text began with. */
export type Conflict = "changed" | "deleted";

/** The text of an open file. */
interface Content {
  /** The version that was read or saved last. */
  base: TextFile;
  etag: string;
  /** From the base to the editor's text. */
  changes: ChangeSet;
  state: EditorState;
}

export class EditedFile implements OpenFile {
  content: Content | undefined;
  /** Why there is no text to show, or why the last save failed. */
  message = "";
  conflict: Conflict | undefined;
  busy = false;
  /** Whether unsaved text is in the browser's storage. */
  stored = true;
  onSaved: () => void = () => {};
  private view: EditorView | undefined;
  private scroll: StateEffect<unknown> | undefined;
  /** Changes since the text that is being saved. */
  private sinceSave: ChangeSet | undefined;
  /** The version on disk that the conflict is about, or that cannot be shown. */
  private otherEtag = "";
  /** Grows when a response that is under way has become outdated. */
  private generation = 0;
  private refreshing = false;
  private storeTimer: ReturnType<typeof setTimeout> | undefined;
  private readonly label = new Compartment();
  private readonly mode = new Compartment();
  private readonly syntax = new Compartment();

  constructor(
    private readonly files: OpenFiles,
    readonly path: string,
  ) {
    this.restore();
  }

  get dirty(): boolean {
    const { content } = this;
    return content !== undefined && !content.changes.empty && !content.state.doc.eq(content.base.doc);
  }

  /** Shows the file's text in the element, until the returned function is called. */
  mount(parent: HTMLElement, readOnly: boolean): () => void {
    if (!this.content) return () => {};
    const configure = [
      this.label.reconfigure(EditorView.contentAttributes.of({ "aria-label": `Content of ${this.path}`, tabindex: "0" })),
      this.mode.reconfigure(EditorState.readOnly.of(readOnly)),
    ];
    this.content.state = this.content.state.update({ effects: configure }).state;
    const view = new EditorView({ parent, state: this.content.state, scrollTo: this.scroll as StateEffect<never> | undefined });
    this.view = view;
    void language(this.path).then((support) => {
      if (support && this.view === view) view.dispatch({ effects: this.syntax.reconfigure(support) });
    });
    return () => {
      this.scroll = view.scrollSnapshot();
      this.view = undefined;
      view.destroy();
      this.store();
    };
  }

  /** Reads the file, unless the version that is shown is still the one on disk. */
  async refresh(): Promise<void> {
    if (this.busy || this.refreshing) return;
    this.refreshing = true;
    const generation = ++this.generation;
    const known = [this.content?.etag, this.otherEtag].filter((tag) => tag);
    try {
      const response = await send(filesUrl(this.files.project, this.path), { headers: known.length > 0 ? { "if-none-match": known.join(", ") } : {} });
      const read = await this.receive(response);
      if (generation === this.generation) this.apply(read, response.headers.get("etag") ?? "");
    } catch (error) {
      // A text that is shown stays: the sandbox may have been stopped.
      if (generation === this.generation && !this.content) this.show(errorMessage(error));
    }
    this.refreshing = false;
  }

  async save(force = false): Promise<void> {
    const { content } = this;
    if (!content || this.busy) return;
    const saved = edited(content.base, content.changes);
    this.sinceSave = ChangeSet.empty(saved.doc.length);
    this.generation++;
    this.busy = true;
    this.message = "";
    this.files.notify();
    // Forced, it replaces the version on disk that the conflict is about, and no newer one.
    const etag = force ? this.otherEtag : content.etag;
    const headers: Record<string, string> = this.conflict === "deleted" ? { "if-none-match": "*" } : etag ? { "if-match": etag } : {};
    let refused = false;
    try {
      const response = await send(filesUrl(this.files.project, this.path), { method: "PUT", body: toText(saved), headers });
      refused = response.status === 412;
      if (!response.ok && !refused) throw await readApiError(response);
      if (!refused) {
        content.base = saved;
        content.etag = response.headers.get("etag") ?? "";
        content.changes = this.sinceSave;
        this.conflict = undefined;
        this.otherEtag = "";
        this.onSaved();
      }
    } catch (error) {
      this.message = errorMessage(error);
    }
    this.sinceSave = undefined;
    this.generation++;
    this.busy = false;
    if (refused) {
      this.conflict = "changed";
      this.otherEtag = "";
      await this.refresh();
    }
    this.store();
    this.files.notify();
  }

  /** Replaces unsaved text by the file on disk. The text can be brought back by undo. */
  async discard(): Promise<void> {
    const { content } = this;
    if (!content) return;
    const generation = ++this.generation;
    try {
      const response = await send(filesUrl(this.files.project, this.path));
      const read = await this.receive(response);
      if (generation !== this.generation) return;
      if (typeof read !== "object") return this.show(read ?? "");
      this.adopt(content, read, response.headers.get("etag") ?? "", true);
    } catch (error) {
      this.message = errorMessage(error);
    }
    this.store();
    this.files.notify();
  }

  /** Copies unsaved text to the browser's storage, or removes the copy. */
  store() {
    clearTimeout(this.storeTimer);
    this.storeTimer = undefined;
    const { content, dirty } = this;
    if (content && dirty) {
      this.stored = this.files.unsaved.write(this.path, { text: toText(content.base), etag: content.etag, changes: content.changes.toJSON() });
    } else if (content) {
      this.files.unsaved.remove(this.path);
      this.stored = true;
    }
  }

  /** Ends the file's life in memory, and removes unsaved text. */
  forget() {
    clearTimeout(this.storeTimer);
    this.generation++;
    this.content = undefined;
    this.files.unsaved.remove(this.path);
  }

  /** The file after it was renamed. */
  renamed(path: string): EditedFile {
    const file = new EditedFile(this.files, path);
    if (this.content) {
      file.content = { ...this.content, state: file.stateOf(this.content.state.doc, this.content.state) };
      file.conflict = this.conflict;
    }
    this.forget();
    file.store();
    return file;
  }

  private restore() {
    const unsaved = this.files.unsaved.read(this.path);
    if (!unsaved) return;
    try {
      const base = fromText(unsaved.text);
      const changes = ChangeSet.fromJSON(unsaved.changes);
      this.content = { base, etag: unsaved.etag, changes, state: this.stateOf(changes.apply(base.doc)) };
    } catch {
      // Not written by this version of the page.
      this.files.unsaved.remove(this.path);
    }
  }

  /** The text of a response, why there is none, or undefined where the known version is still the one on disk. */
  private async receive(response: Response): Promise<TextFile | string | undefined> {
    if (response.status === 304) return undefined;
    if (response.status === 404 && this.content) {
      await response.body?.cancel();
      return "";
    }
    if (!response.ok) throw await readApiError(response);
    const length = Number(response.headers.get("content-length") ?? 0);
    if (length > maxSize) {
      await response.body?.cancel();
      return `This file is too large to edit here: ${formatBytes(length)}, the limit is ${formatBytes(maxSize)}. Download it, or edit it in the terminal.`;
    }
    const bytes = new Uint8Array(await response.arrayBuffer());
    const file = decode(bytes);
    if (file === "binary") return `This is a binary file (${formatBytes(bytes.length)}). Download it to view it.`;
    if (file === "not UTF-8") {
      return `This file is not UTF-8 text (${formatBytes(bytes.length)}), so it cannot be edited here. Convert it in the terminal with iconv, or download it.`;
    }
    return file;
  }

  private apply(read: TextFile | string | undefined, etag: string) {
    const { content } = this;
    if (read === undefined) {
      // The version on disk is the one that was read, unless it is the one that the conflict is about.
      if (content && this.conflict && etag === content.etag) this.conflict = undefined;
    } else if (read === "") {
      this.conflict = "deleted";
      this.otherEtag = "";
    } else if (!content) {
      if (typeof read === "string") {
        this.otherEtag = etag;
        return this.show(read);
      }
      const changes = ChangeSet.empty(read.doc.length);
      this.content = { base: read, etag, changes, state: this.stateOf(read.doc) };
      this.message = "";
      this.otherEtag = "";
    } else if (typeof read === "object" && (!this.dirty || sameFile(read, edited(content.base, content.changes)))) {
      this.adopt(content, read, etag, false);
    } else if (!this.dirty && typeof read === "string") {
      this.content = undefined;
      this.otherEtag = etag;
      return this.show(read);
    } else {
      this.conflict = "changed";
      this.otherEtag = etag;
    }
    this.files.notify();
  }

  private show(message: string) {
    this.message = message;
    this.files.notify();
  }

  /** Makes the editor's text that of the disk; cursor and scroll position stay where they are in the text. */
  private adopt(content: Content, file: TextFile, etag: string, undoable: boolean) {
    if (!content.state.doc.eq(file.doc)) {
      const spec = { changes: replacement(content.state.doc, file.doc), annotations: Transaction.addToHistory.of(undoable) };
      if (this.view) this.view.dispatch(spec);
      else content.state = content.state.update(spec).state;
    }
    content.base = file;
    content.etag = etag;
    content.changes = ChangeSet.empty(file.doc.length);
    this.conflict = undefined;
    this.otherEtag = "";
    this.message = "";
    this.store();
  }

  private stateOf(doc: EditorState["doc"], like?: EditorState): EditorState {
    return EditorState.create({
      doc,
      selection: like?.selection,
      extensions: [
        lineNumbers(), foldGutter(), highlightSpecialChars(), history(), drawSelection(), indentOnInput(),
        bracketMatching(), closeBrackets(), highlightActiveLine(), highlightSelectionMatches(), search({ top: true }),
        syntaxHighlighting(highlightStyle), editorTheme, this.label.of([]), this.mode.of([]), this.syntax.of([]),
        EditorView.updateListener.of((update) => {
          const { content } = this;
          if (!content) return;
          content.state = update.state;
          if (!update.docChanged) return;
          content.changes = content.changes.compose(update.changes);
          this.sinceSave = this.sinceSave?.compose(update.changes);
          this.storeTimer ??= setTimeout(() => {
            this.store();
            this.files.notify();
          }, storeDelay);
          this.files.notify();
        }),
        keymap.of([
          { key: "Mod-s", preventDefault: true, run: () => (void this.save(), true) },
          ...closeBracketsKeymap, ...defaultKeymap, ...searchKeymap, ...historyKeymap, indentWithTab,
        ]),
      ],
    });
  }
}
