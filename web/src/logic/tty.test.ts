// A viewer of a terminal session: what it sends, what it keeps, and how it comes back.
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { type Screen, Tty } from "./tty";

const text = new TextEncoder();
const words = new TextDecoder();

class Socket {
  static all: Socket[] = [];
  readyState = 0;
  binaryType = "";
  sent: string[] = [];
  onopen?: () => void;
  onclose?: (event: { code: number }) => void;
  onmessage?: (event: { data: ArrayBuffer }) => void;
  constructor() {
    Socket.all.push(this);
  }
  send(message: string | Uint8Array) {
    this.sent.push(typeof message === "string" ? message : words.decode(message));
  }
  close(code = 1006) {
    this.readyState = 3;
    this.onclose?.({ code });
  }
  arrive() {
    this.readyState = 1;
    this.onopen?.();
  }
  say(message: string) {
    this.onmessage?.({ data: text.encode(message).buffer as ArrayBuffer });
  }
}

let shown: string[];
let done: (() => void)[];
let held: number | undefined;
const screen: Screen = {
  write: (bytes, finished) => {
    shown.push(words.decode(bytes));
    done.push(finished);
  },
  reset: () => shown.push("<reset>"),
  holds: () => held,
  size: () => ({ columns: 80, rows: 24 }),
  title: (title) => shown.push(`<title ${title}>`),
  state: (state) => shown.push(`<${state}>`),
};
const begin = () => new Tty("ws://x", screen, () => new Socket() as unknown as WebSocket);

beforeEach(() => {
  vi.useFakeTimers();
  vi.stubGlobal("WebSocket", { OPEN: 1 });
  Socket.all = [];
  shown = [];
  done = [];
  held = undefined;
});
afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

it("greets with its size, then sends keys and shows output", () => {
  const tty = begin();
  const [socket] = Socket.all as [Socket];
  socket.arrive();
  tty.input("ls\r");
  socket.say("0hello");
  socket.say("1title");
  expect(JSON.parse(socket.sent[0] ?? "")).toEqual({ AuthToken: "", columns: 80, rows: 24, client: expect.stringMatching(/^[0-9a-f]{32}$/), from: 0 });
  expect(socket.sent.slice(1)).toEqual(["0ls\r"]);
  expect(shown).toEqual(["<connecting>", "<open>", "<reset>", "hello", "<title title>"]);
});

it("comes back by itself, sends the keys that were typed meanwhile, and shows what the session holds anew", () => {
  const tty = begin();
  Socket.all[0]?.arrive();
  Socket.all[0]?.say("0before");
  Socket.all[0]?.close();
  tty.input("a");
  tty.input("b");
  vi.advanceTimersByTime(1_000);
  const second = Socket.all[1];
  second?.arrive();
  second?.say("0before and after");
  expect(second?.sent.slice(1)).toEqual(["0a", "0b"]);
  expect(shown.slice(-2)).toEqual(["<reset>", "before and after"]);
});

it("sends again what the session does not have, and says from where", () => {
  const tty = begin();
  const [first] = Socket.all as [Socket];
  first.arrive();
  first.say("30");
  first.say("0$ ");
  tty.input("abc");
  first.say("32");
  first.close();
  tty.input("d");
  vi.advanceTimersByTime(1_000);
  const second = Socket.all[1];
  second?.arrive();
  expect(JSON.parse(second?.sent[0] ?? "").from).toBe(2);
  expect(second?.sent.slice(1).join("")).toBe("0c0d");
  // Of the old connection more had arrived than the session could say.
  second?.say("33");
  second?.say("34");
  second?.close();
  vi.advanceTimersByTime(1_000);
  Socket.all[2]?.arrive();
  expect(JSON.parse(Socket.all[2]?.sent[0] ?? "").from).toBe(4);
  expect(Socket.all[2]?.sent.length).toBe(1);
});

it("sends nothing again to a session that does not count, or to the next shell", () => {
  const tty = begin();
  Socket.all[0]?.arrive();
  Socket.all[0]?.say("0$ ");
  tty.input("old");
  Socket.all[0]?.close();
  vi.advanceTimersByTime(1_000);
  Socket.all[1]?.arrive();
  Socket.all[1]?.say("30");
  expect(Socket.all[1]?.sent.length).toBe(1);
  tty.input("exit\rls\r");
  Socket.all[1]?.close(1000);
  vi.advanceTimersByTime(1_000);
  Socket.all[2]?.arrive();
  expect(Socket.all[2]?.sent.length).toBe(1);
});

it("waits longer after each failure, never more than some seconds", () => {
  begin();
  for (let failure = 0; failure < 12; failure++) {
    Socket.all.at(-1)?.close();
    vi.advanceTimersByTime(7_000);
  }
  expect(Socket.all.length).toBe(13);
  Socket.all.at(-1)?.close();
  vi.advanceTimersByTime(3_000);
  expect(Socket.all.length).toBe(13);
});

it("slows the session down while the screen is behind, and only then", () => {
  begin();
  const [socket] = Socket.all as [Socket];
  socket.arrive();
  const piece = `0\x1b[H${"x".repeat(300_000)}`;
  socket.say(piece);
  expect(socket.sent).not.toContain("2");
  socket.say(piece);
  expect(socket.sent.filter((message) => message === "2").length).toBe(1);
  while (done.length > 0) done.shift()?.();
  expect(socket.sent.at(-1)).toBe("3");
  expect(shown.slice(3).join("").length).toBe(2 * (piece.length - 1));
});

it("leaves out the lines that would scroll away unseen, and keeps the ones that stay", () => {
  begin();
  const [socket] = Socket.all as [Socket];
  socket.arrive();
  held = 100;
  const piece = (number: number) => `0${`line of ${number}\r\n`.repeat(5_000)}`;
  for (let number = 0; number < 50; number++) socket.say(piece(number));
  while (done.length > 0) done.shift()?.();
  const all = shown.slice(3).join("");
  expect(all).toContain("line of 0");
  expect(all).not.toContain("line of 30");
  expect(all.endsWith("line of 49\r\n".repeat(5_000))).toBe(true);
  expect(socket.sent).not.toContain("2");
});

it("leaves nothing out while something on the screen may change what lines do", () => {
  begin();
  const [socket] = Socket.all as [Socket];
  socket.arrive();
  held = 100;
  socket.say(`0\x1b[2;5r${"x".repeat(200_000)}`);
  for (let number = 0; number < 9; number++) socket.say(`0${`line of ${number}\r\n`.repeat(500)}`);
  held = undefined;
  while (done.length > 0) done.shift()?.();
  const all = shown.slice(3).join("");
  for (let number = 0; number < 9; number++) expect(all).toContain(`line of ${number}`);
});

it("does not come back once it is closed", () => {
  const tty = begin();
  Socket.all[0]?.arrive();
  tty.close();
  vi.advanceTimersByTime(60_000);
  expect(Socket.all.length).toBe(1);
});
