// One terminal session on the screen.
import "@xterm/xterm/css/xterm.css";
import { ActionIcon, Group, TextInput } from "@mantine/core";
import { notifications } from "@mantine/notifications";
import { IconArrowDown, IconArrowUp, IconX } from "@tabler/icons-react";
import { FitAddon } from "@xterm/addon-fit";
import { SearchAddon } from "@xterm/addon-search";
import { Unicode11Addon } from "@xterm/addon-unicode11";
import { WebLinksAddon } from "@xterm/addon-web-links";
import { Terminal as Xterm } from "@xterm/xterm";
import { type DragEvent, useEffect, useRef, useState } from "react";
import { type Project, refusal, send } from "../../api/client";
import { complain, filesUrl } from "../../api/queries";
import { may } from "../../logic/role";
import { quoted } from "../../logic/shell";
import { Tty, type TtyState } from "../../logic/tty";
import { takeCommand } from "./ask";

const scrollback = 10_000;
const uploadPatience = 3_600_000;

const look = {
  background: "#0d1014", foreground: "#d6dae0", cursor: "#2dd4bf", selectionBackground: "#2f5d5b",
  black: "#1e242b", red: "#f47174", green: "#5fcf8f", yellow: "#e5c07b", blue: "#6cb2f7", magenta: "#c792ea",
  cyan: "#56c7c0", white: "#d6dae0", brightBlack: "#76818f", brightRed: "#ff9194", brightGreen: "#86e0ab",
  brightYellow: "#f2d49b", brightBlue: "#93c9ff", brightMagenta: "#dbb3f5", brightCyan: "#85dfd9", brightWhite: "#ffffff",
};

/** Keys that a phone's keyboard lacks. */
const mobileKeys: [string, string][] = [
  ["Esc", "\x1b"], ["Tab", "\t"], ["^C", "\x03"], ["^D", "\x04"], ["←", "\x1b[D"], ["↓", "\x1b[B"], ["↑", "\x1b[A"],
  ["→", "\x1b[C"], ["|", "|"], ["/", "/"], ["-", "-"], ["~", "~"],
];

/**
 * What each terminal shows, as text: with WebGL the screen is a picture, which neither a test nor a
 * helper program can read.
 */
const texts = new Map<string, () => string>();
Object.assign(window, { fsaTerminals: texts });

function text(term: Xterm): string {
  const { active } = term.buffer;
  const lines: string[] = [];
  for (let row = active.viewportY; row < active.viewportY + term.rows; row++) {
    lines.push(active.getLine(row)?.translateToString(true) ?? "");
  }
  return lines.join("\n");
}

/** Whether WebGL is the graphics card's: done by the processor, it is slower than elements are. */
let fast: boolean | undefined;
function graphics(): boolean {
  if (fast === undefined) {
    const context = document.createElement("canvas").getContext("webgl2", { failIfMajorPerformanceCaveat: true });
    // Chromium without a graphics card does not count its own software (SwiftShader) as a caveat.
    const names = context?.getExtension("WEBGL_debug_renderer_info");
    const card = String(context?.getParameter(names ? names.UNMASKED_RENDERER_WEBGL : WebGL2RenderingContext.RENDERER) ?? "");
    fast = context !== null && !/swiftshader|llvmpipe|softpipe|software|basic render/i.test(card);
    context?.getExtension("WEBGL_lose_context")?.loseContext();
  }
  return fast;
}

async function accelerate(term: Xterm, gone: () => boolean) {
  try {
    const { WebglAddon } = await import("@xterm/addon-webgl");
    if (gone()) return;
    const webgl = new WebglAddon();
    // A lost context falls back to the renderer that the terminal has by itself.
    webgl.onContextLoss(() => webgl.dispose());
    term.loadAddon(webgl);
  } catch {
    // No WebGL here: the terminal draws with elements.
  }
}

/** Says whether a program has set margins (DECSTBM), between which lines scroll by themselves. */
function watchMargins(term: Xterm): () => boolean {
  let set = false;
  term.parser.registerCsiHandler({ final: "r" }, ([top, bottom]) => {
    const first = typeof top === "number" ? top : 0;
    const last = typeof bottom === "number" ? bottom : 0;
    set = first > 1 || (last > 0 && last < term.rows);
    return false;
  });
  const none = () => {
    set = false;
    return false;
  };
  // Soft and full reset.
  term.parser.registerCsiHandler({ intermediates: "!", final: "p" }, none);
  term.parser.registerEscHandler({ final: "c" }, none);
  return () => set;
}

interface Props {
  project: Project;
  session: string;
  shown: boolean;
  focused: boolean;
  title: (title: string) => void;
}

export function Terminal({ project, session, shown, focused, title }: Props) {
  const host = useRef<HTMLDivElement>(null);
  const parts = useRef<{ term: Xterm; fit: FitAddon; search: SearchAddon; tty: Tty }>(undefined);
  const [state, setState] = useState<TtyState>("connecting");
  const [finding, setFinding] = useState(false);
  const [needle, setNeedle] = useState("");
  const works = may(project.role, "editor");
  const titled = useRef(title);
  titled.current = title;

  useEffect(() => {
    if (!host.current) return;
    const term = new Xterm({
      allowProposedApi: true,
      cursorBlink: true,
      fontFamily: getComputedStyle(document.body).getPropertyValue("--mantine-font-family-monospace"),
      fontSize: 13,
      lineHeight: 1.2,
      scrollback,
      theme: look,
      macOptionIsMeta: true,
      disableStdin: !works,
    });
    const fit = new FitAddon();
    const search = new SearchAddon();
    term.loadAddon(fit);
    term.loadAddon(search);
    term.loadAddon(new Unicode11Addon());
    term.loadAddon(new WebLinksAddon());
    term.unicode.activeVersion = "11";
    term.open(host.current);
    let gone = false;
    if (graphics()) void accelerate(term, () => gone);
    const margins = watchMargins(term);
    fit.fit();
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const url = `${scheme}//${location.host}/api/projects/${project.id}/terminal?session=${encodeURIComponent(session)}`;
    const tty = new Tty(url, {
      write: (bytes, done) => term.write(bytes, done),
      // In order with what is written and not parsed yet.
      reset: () => term.write("\x1bc"),
      holds: () => (term.buffer.active.type === "normal" && !margins() ? scrollback + term.rows + 1 : undefined),
      size: () => ({ columns: term.cols, rows: term.rows }),
      title: (text) => titled.current(text),
      state: (state) => {
        setState(state);
        const command = state === "open" ? takeCommand(session) : undefined;
        if (command) tty.input(`${command}\r`);
      },
    });
    const type = (keys: string | Uint8Array) => {
      if (tty.input(keys)) return;
      notifications.show({
        id: "too-much",
        color: "red",
        title: "That was not typed",
        message: "The program in the terminal has read nothing of megabytes that were typed before.",
      });
    };
    term.onData(type);
    term.onBinary((keys) => type(Uint8Array.from(keys, (key) => key.charCodeAt(0))));
    term.onResize(() => tty.resize());
    term.attachCustomKeyEventHandler((event) => {
      const chord = event.ctrlKey && event.shiftKey;
      // The page's own chord reaches the page.
      if ((event.ctrlKey || event.metaKey) && !event.shiftKey && event.key === "k") return false;
      if (event.type !== "keydown") return true;
      if (chord && event.code === "KeyF") {
        event.preventDefault();
        setFinding(true);
        return false;
      }
      if (chord && event.code === "KeyC" && term.hasSelection()) {
        event.preventDefault();
        void navigator.clipboard.writeText(term.getSelection());
        return false;
      }
      // The browser pastes, and the terminal gets it as one paste.
      if (chord && event.code === "KeyV") return false;
      return true;
    });
    const watch = new ResizeObserver(() => {
      if (host.current && host.current.clientWidth > 0) fit.fit();
    });
    watch.observe(host.current);
    const hurry = () => tty.hurry();
    addEventListener("online", hurry);
    parts.current = { term, fit, search, tty };
    texts.set(session, () => text(term));
    return () => {
      gone = true;
      texts.delete(session);
      removeEventListener("online", hurry);
      watch.disconnect();
      tty.close();
      term.dispose();
      parts.current = undefined;
    };
  }, [project.id, session, works]);

  useEffect(() => {
    if (shown && focused) parts.current?.term.focus();
  }, [shown, focused]);

  const drop = async (event: DragEvent) => {
    event.preventDefault();
    if (!works) return;
    const files = [...event.dataTransfer.files];
    try {
      for (const file of files) {
        const answer = await send(filesUrl(project.id, file.name), { method: "PUT", body: file }, uploadPatience);
        if (!answer.ok) throw await refusal(answer);
      }
      if (files.length > 0) {
        parts.current?.tty.input(files.map((file) => quoted(file.name)).join(" "));
        notifications.show({ message: `${files.length === 1 ? files[0]?.name : `${files.length} files`} uploaded into the project's folder.` });
      }
    } catch (error) {
      complain(error);
    }
  };
  const find = (back = false) => {
    const search = parts.current?.search;
    if (back) search?.findPrevious(needle);
    else search?.findNext(needle);
  };
  const leave = () => {
    setFinding(false);
    parts.current?.term.focus();
  };

  return (
    <div style={{ flex: 1, minWidth: 0, display: shown ? "flex" : "none", flexDirection: "column", borderLeft: "1px solid #0d1014" }}>
      {finding && (
        <Group className="tools" gap={4} wrap="nowrap">
          <TextInput
            size="xs"
            className="grow"
            autoFocus
            aria-label="Find in the terminal"
            placeholder="Find"
            value={needle}
            onChange={(event) => setNeedle(event.currentTarget.value)}
            onKeyDown={(event) => {
              if (event.key === "Enter") find(event.shiftKey);
              if (event.key === "Escape") leave();
            }}
          />
          <ActionIcon aria-label="Previous" onClick={() => find(true)}>
            <IconArrowUp size={15} />
          </ActionIcon>
          <ActionIcon aria-label="Next" onClick={() => find()}>
            <IconArrowDown size={15} />
          </ActionIcon>
          <ActionIcon aria-label="Close the search" onClick={leave}>
            <IconX size={15} />
          </ActionIcon>
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
        {!works && state === "open" && (
          <span className="badge" data-kind="watch">
            You watch; typing takes an editor of the project
          </span>
        )}
        {state === "lost" && (
          <span className="badge" role="status">
            Reconnecting; what you type is kept
          </span>
        )}
      </div>
      {works && (
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
