// One terminal session: xterm.js connected to the session, with search, clipboard and file drop.
import "@xterm/xterm/css/xterm.css";
import { ActionIcon, Button, Group, Text, TextInput } from "@mantine/core";
import { notifications } from "@mantine/notifications";
import { IconArrowDown, IconArrowUp, IconX } from "@tabler/icons-react";
import { FitAddon } from "@xterm/addon-fit";
import { SearchAddon } from "@xterm/addon-search";
import { Unicode11Addon } from "@xterm/addon-unicode11";
import { WebLinksAddon } from "@xterm/addon-web-links";
import { Terminal as Xterm } from "@xterm/xterm";
import { type DragEvent, useEffect, useRef, useState } from "react";
import type { ProjectInBranch } from "../../api/client";
import { copiedText } from "../../logic/copySequence";
import { hasRole } from "../../logic/role";
import { shellQuote } from "../../logic/shellQuote";
import { isMac, terminalKey } from "../../logic/terminalKeys";
import { Tty, type TtyState } from "../../logic/tty";
import { useConfirm } from "../../shell/Confirm";
import { takeCommand } from "./terminalRequests";
import { useCopying, useOptionIsMeta } from "./terminalSettings";
import { upload } from "./upload";

const scrollback = 10_000;

const theme = {
  background: "#0d1014", foreground: "#d6dae0", cursor: "#2dd4bf", selectionBackground: "#2f5d5b",
  black: "#1e242b", red: "#f47174", green: "#5fcf8f", yellow: "#e5c07b", blue: "#6cb2f7", magenta: "#c792ea",
  cyan: "#56c7c0", white: "#d6dae0", brightBlack: "#76818f", brightRed: "#ff9194", brightGreen: "#86e0ab",
  brightYellow: "#f2d49b", brightBlue: "#93c9ff", brightMagenta: "#dbb3f5", brightCyan: "#85dfd9", brightWhite: "#ffffff",
};

/** Keys that a phone keyboard lacks. */
const mobileKeys: [string, string][] = [
  ["Esc", "\x1b"], ["Tab", "\t"], ["^C", "\x03"], ["^D", "\x04"], ["←", "\x1b[D"], ["↓", "\x1b[B"], ["↑", "\x1b[A"],
  ["→", "\x1b[C"], ["|", "|"], ["/", "/"], ["-", "-"], ["~", "~"],
];

/**
 * The text on each terminal's screen: WebGL renders to a canvas, which neither a test nor an assistive tool can
 * read.
 */
const screenTexts = new Map<string, () => string>();
Object.assign(window, { fsaTerminals: screenTexts });

function screenText(term: Xterm): string {
  const { active } = term.buffer;
  const lines: string[] = [];
  for (let row = active.viewportY; row < active.viewportY + term.rows; row++) {
    lines.push(active.getLine(row)?.translateToString(true) ?? "");
  }
  return lines.join("\n");
}

/** Whether WebGL uses a graphics card: in software it is slower than the DOM renderer. */
let hardwareWebgl: boolean | undefined;
function hasHardwareWebgl(): boolean {
  if (hardwareWebgl === undefined) {
    const context = document.createElement("canvas").getContext("webgl2", { failIfMajorPerformanceCaveat: true });
    // Chromium without a graphics card does not report its software renderer (SwiftShader) as a caveat.
    const debugInfo = context?.getExtension("WEBGL_debug_renderer_info");
    const renderer = String(context?.getParameter(debugInfo ? debugInfo.UNMASKED_RENDERER_WEBGL : WebGL2RenderingContext.RENDERER) ?? "");
    hardwareWebgl = context !== null && !/swiftshader|llvmpipe|softpipe|software|basic render/i.test(renderer);
    context?.getExtension("WEBGL_lose_context")?.loseContext();
  }
  return hardwareWebgl;
}

async function loadWebgl(term: Xterm, isDisposed: () => boolean) {
  try {
    const { WebglAddon } = await import("@xterm/addon-webgl");
    if (isDisposed()) return;
    const webgl = new WebglAddon();
    // After a lost context the terminal falls back to its DOM renderer.
    webgl.onContextLoss(() => webgl.dispose());
    term.loadAddon(webgl);
  } catch {
    // No WebGL: the terminal uses its DOM renderer.
  }
}

/** Tracks whether a program has set margins (DECSTBM), between which lines scroll separately. */
function watchMargins(term: Xterm): () => boolean {
  let marginsSet = false;
  term.parser.registerCsiHandler({ final: "r" }, ([top, bottom]) => {
    const first = typeof top === "number" ? top : 0;
    const last = typeof bottom === "number" ? bottom : 0;
    marginsSet = first > 1 || (last > 0 && last < term.rows);
    return false;
  });
  const clearMargins = () => {
    marginsSet = false;
    return false;
  };
  // Soft and full reset.
  term.parser.registerCsiHandler({ intermediates: "!", final: "p" }, clearMargins);
  term.parser.registerEscHandler({ final: "c" }, clearMargins);
  return () => marginsSet;
}

async function writeClipboard(text: string) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // There is no clipboard over plain http, and none for a page in the background.
    notifications.show({ id: "not-copied", color: "red", message: "The browser does not allow this page to copy a program's text to the clipboard." });
  }
}

interface Props {
  project: ProjectInBranch;
  session: string;
  shown: boolean;
  focused: boolean;
  title: (title: string) => void;
}

export function Terminal({ project, session, shown, focused, title }: Props) {
  const host = useRef<HTMLDivElement>(null);
  const parts = useRef<{ term: Xterm; fit: FitAddon; search: SearchAddon; tty: Tty }>(undefined);
  const [connection, setConnection] = useState<{ canType: boolean; state: TtyState }>();
  const [finding, setFinding] = useState(false);
  const [needle, setNeedle] = useState("");
  const [confirmDialog, ask] = useConfirm();
  const [copying, setCopying] = useCopying(project.id);
  const [toCopy, setToCopy] = useState<string>();
  const [optionIsMeta] = useOptionIsMeta();
  const canType = hasRole(project.role, "editor");
  // With another role the session is connected again, and the state so far is that of the old connection.
  const state = connection?.canType === canType ? connection.state : "connecting";
  const onTitle = useRef(title);
  onTitle.current = title;

  // A program copies text. The user is asked once for each project.
  const onCopy = useRef((_text: string) => {});
  onCopy.current = (text) => {
    if (copying === "deny") return;
    if (copying === "allow") void writeClipboard(text);
    else setToCopy(text);
  };
  const decide = (decision: "allow" | "deny") => {
    setCopying(decision);
    if (decision === "allow" && toCopy !== undefined) void writeClipboard(toCopy);
    setToCopy(undefined);
    parts.current?.term.focus();
  };

  useEffect(() => {
    if (!host.current) return;
    const term = new Xterm({
      allowProposedApi: true,
      cursorBlink: true,
      fontFamily: getComputedStyle(document.body).getPropertyValue("--mantine-font-family-monospace"),
      fontSize: 13,
      lineHeight: 1.2,
      scrollback,
      theme: theme,
      disableStdin: !canType,
    });
    const fit = new FitAddon();
    const search = new SearchAddon();
    term.loadAddon(fit);
    term.loadAddon(search);
    term.loadAddon(new Unicode11Addon());
    term.loadAddon(new WebLinksAddon());
    term.unicode.activeVersion = "11";
    term.open(host.current);
    let disposed = false;
    if (hasHardwareWebgl()) void loadWebgl(term, () => disposed);
    const margins = watchMargins(term);
    fit.fit();
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const url = `${scheme}//${location.host}/api/projects/${project.reference}/terminal?session=${encodeURIComponent(session)}`;
    const tty = new Tty(url, {
      write: (bytes, done) => term.write(bytes, done),
      // As output, so that it stays in order with output that is not parsed yet.
      reset: () => term.write("\x1bc"),
      capacity: () => (term.buffer.active.type === "normal" && !margins() ? scrollback + term.rows + 1 : undefined),
      size: () => ({ columns: term.cols, rows: term.rows }),
      fullScreen: () => term.buffer.active.type === "alternate",
      title: (text) => onTitle.current(text),
      state: (state) => {
        setConnection({ canType, state });
        const command = state === "open" ? takeCommand(project.reference, session) : undefined;
        if (command) tty.input(`${command}\r`);
      },
    });
    const sendInput = (keys: string | Uint8Array) => {
      if (tty.input(keys)) return;
      notifications.show({
        id: "input-buffer-full",
        color: "red",
        title: "Input discarded",
        message: "The input buffer is full because the program in the terminal is not reading its input.",
      });
    };
    term.onData(sendInput);
    term.onBinary((keys) => sendInput(Uint8Array.from(keys, (key) => key.charCodeAt(0))));
    term.onResize(() => tty.resize());
    term.attachCustomKeyEventHandler((event) => {
      const key = terminalKey(event, isMac(navigator.platform), term.hasSelection());
      if (key === "program") return true;
      // The page's own keys: the palette's reaches the page, and the browser pastes, which the terminal gets as one paste.
      if (key === "palette" || key === "paste") return false;
      event.preventDefault();
      if (event.type !== "keydown") return false;
      if (key === "find") setFinding(true);
      else if (key === "copy") void navigator.clipboard.writeText(term.getSelection());
      else sendInput(key.send);
      return false;
    });
    term.parser.registerOscHandler(52, (data) => {
      const text = copiedText(data);
      if (text !== undefined) onCopy.current(text);
      return true;
    });
    const resizeObserver = new ResizeObserver(() => {
      if (host.current && host.current.clientWidth > 0) fit.fit();
    });
    resizeObserver.observe(host.current);
    const reconnect = () => tty.reconnectNow();
    addEventListener("online", reconnect);
    parts.current = { term, fit, search, tty };
    screenTexts.set(session, () => screenText(term));
    return () => {
      disposed = true;
      screenTexts.delete(session);
      removeEventListener("online", reconnect);
      resizeObserver.disconnect();
      tty.close();
      term.dispose();
      parts.current = undefined;
    };
  }, [project.reference, session, canType]);
  useEffect(() => {
    if (parts.current) parts.current.term.options.macOptionIsMeta = optionIsMeta;
  }, [optionIsMeta, project.reference, session, canType]);

  useEffect(() => {
    if (shown && focused) parts.current?.term.focus();
  }, [shown, focused]);

  const drop = async (event: DragEvent) => {
    event.preventDefault();
    if (!canType) return;
    const files = await upload(project.reference, [...event.dataTransfer.files], ".", ask);
    if (files.length === 0) return;
    parts.current?.tty.input(files.map((file) => shellQuote(file.name)).join(" "));
    notifications.show({ message: `${files.length === 1 ? files[0]?.name : `${files.length} files`} uploaded to the project folder.` });
  };
  const find = (back = false) => {
    const search = parts.current?.search;
    if (back) search?.findPrevious(needle);
    else search?.findNext(needle);
  };
  const closeFind = () => {
    setFinding(false);
    parts.current?.term.focus();
  };

  return (
    <div style={{ flex: 1, minWidth: 0, display: shown ? "flex" : "none", flexDirection: "column", borderLeft: "1px solid #0d1014" }}>
      {confirmDialog}
      {finding && (
        <Group className="tools" gap={4} wrap="nowrap">
          <TextInput
            size="xs"
            className="grow"
            autoFocus
            aria-label="Find in terminal"
            placeholder="Find"
            value={needle}
            onChange={(event) => setNeedle(event.currentTarget.value)}
            onKeyDown={(event) => {
              if (event.key === "Enter") find(event.shiftKey);
              if (event.key === "Escape") closeFind();
            }}
          />
          <ActionIcon aria-label="Previous match" onClick={() => find(true)}>
            <IconArrowUp size={15} />
          </ActionIcon>
          <ActionIcon aria-label="Next match" onClick={() => find()}>
            <IconArrowDown size={15} />
          </ActionIcon>
          <ActionIcon aria-label="Close search" onClick={closeFind}>
            <IconX size={15} />
          </ActionIcon>
        </Group>
      )}
      {toCopy !== undefined && (
        <Group className="tools wraps" gap={6} role="alert">
          <Text size="xs" className="grow">
            A program in this terminal wants to copy text to your clipboard.
          </Text>
          <Button variant="default" size="compact-xs" onClick={() => decide("deny")}>
            Never in this project
          </Button>
          <Button size="compact-xs" onClick={() => decide("allow")}>
            Always allow
          </Button>
        </Group>
      )}
      <div
        className="term"
        data-session={session}
        data-tty={state}
        onDragOver={(event) => event.preventDefault()}
        onDrop={(event) => void drop(event)}
      >
        <div ref={host} style={{ height: "100%" }} />
        {!canType && state === "open" && (
          <span className="badge" data-kind="view-only">
            View only. Typing requires the editor role.
          </span>
        )}
        {state === "lost" && (
          <span className="badge" role="status">
            Reconnecting… Your input is kept.
          </span>
        )}
      </div>
      {canType && (
        <div className="keys">
          {mobileKeys.map(([name, keys]) => (
            <button
              key={name}
              type="button"
              onPointerDown={(event) => event.preventDefault()}
              onClick={() => {
                parts.current?.tty.input(keys);
                parts.current?.term.focus();
              }}
            >
              {name}
            </button>
          ))}
        </div>
      )}
    </div>
  );
}
