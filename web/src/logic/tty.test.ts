// Client of a terminal session: messages, buffered input, flow control and reconnection.
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { type Screen, Tty } from "./tty";

const encoder = new TextEncoder();
const decoder = new TextDecoder();

class FakeSocket {
  static all: FakeSocket[] = [];
  readyState = 0;
  binaryType = "";
  sent: string[] = [];
  onopen?: () => void;
  onclose?: (event: { code: number }) => void;
  onmessage?: (event: { data: ArrayBuffer }) => void;
  constructor() {
    FakeSocket.all.push(this);
  }
  send(message: string | Uint8Array) {
    this.sent.push(typeof message === "string" ? message : decoder.decode(message));
  }
  close(code = 1006) {
    this.readyState = 3;
    this.onclose?.({ code });
  }
  accept() {
    this.readyState = 1;
    this.onopen?.();
  }
  receive(message: string) {
    this.onmessage?.({ data: encoder.encode(message).buffer as ArrayBuffer });
  }
}

let shown: string[];
let pendingWrites: (() => void)[];
let capacity: number | undefined;
let fullScreen: boolean;
const screen: Screen = {
  write: (bytes, finished) => {
    shown.push(decoder.decode(bytes));
    pendingWrites.push(finished);
  },
  reset: () => shown.push("<reset>"),
  capacity: () => capacity,
  size: () => ({ columns: 80, rows: 24 }),
  fullScreen: () => fullScreen,
  title: (title) => shown.push(`<title ${title}>`),
  state: (state) => shown.push(`<${state}>`),
};
const openTty = () => new Tty("ws://x", screen, () => new FakeSocket() as unknown as WebSocket);

beforeEach(() => {
  vi.useFakeTimers();
  vi.stubGlobal("WebSocket", { OPEN: 1 });
  FakeSocket.all = [];
  shown = [];
  pendingWrites = [];
  capacity = undefined;
  fullScreen = false;
});
afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

it("sends its size first, then input, and shows output", () => {
  const tty = openTty();
  const [socket] = FakeSocket.all as [FakeSocket];
  socket.accept();
  tty.input("ls\r");
  socket.receive("0hello");
  socket.receive("1title");
  expect(JSON.parse(socket.sent[0] ?? "")).toEqual({ AuthToken: "", columns: 80, rows: 24, client: expect.stringMatching(/^[0-9a-f]{32}$/), from: 0 });
  expect(socket.sent.slice(1)).toEqual(["0ls\r"]);
  expect(shown).toEqual(["<connecting>", "<open>", "<reset>", "hello", "<title title>"]);
});

it("reconnects, sends input that was typed while disconnected, and resets the screen before it shows output again", () => {
  const tty = openTty();
  FakeSocket.all[0]?.accept();
  FakeSocket.all[0]?.receive("0before");
  FakeSocket.all[0]?.close();
  tty.input("a");
  tty.input("b");
  vi.advanceTimersByTime(1_000);
  const second = FakeSocket.all[1];
  second?.accept();
  second?.receive("0before and after");
  expect(second?.sent.slice(1)).toEqual(["0a", "0b"]);
  expect(shown.slice(-2)).toEqual(["<reset>", "before and after"]);
});

it("resends input that the session does not have, with its sequence number", () => {
  const tty = openTty();
  const [first] = FakeSocket.all as [FakeSocket];
  first.accept();
  first.receive("30");
  first.receive("0$ ");
  tty.input("abc");
  first.receive("32");
  first.close();
  tty.input("d");
  vi.advanceTimersByTime(1_000);
  const second = FakeSocket.all[1];
  second?.accept();
  expect(JSON.parse(second?.sent[0] ?? "").from).toBe(2);
  expect(second?.sent.slice(1).join("")).toBe("0c0d");
  // On the old connection more was delivered than the session could acknowledge.
  second?.receive("33");
  second?.receive("34");
  second?.close();
  vi.advanceTimersByTime(1_000);
  FakeSocket.all[2]?.accept();
  expect(JSON.parse(FakeSocket.all[2]?.sent[0] ?? "").from).toBe(4);
  expect(FakeSocket.all[2]?.sent.length).toBe(1);
});

it("does not resend input to a session without acknowledgements, or to the next shell", () => {
  const tty = openTty();
  FakeSocket.all[0]?.accept();
  FakeSocket.all[0]?.receive("0$ ");
  tty.input("old");
  FakeSocket.all[0]?.close();
  vi.advanceTimersByTime(1_000);
  FakeSocket.all[1]?.accept();
  FakeSocket.all[1]?.receive("30");
  expect(FakeSocket.all[1]?.sent.length).toBe(1);
  tty.input("exit\rls\r");
  FakeSocket.all[1]?.close(1000);
  vi.advanceTimersByTime(1_000);
  FakeSocket.all[2]?.accept();
  expect(FakeSocket.all[2]?.sent.length).toBe(1);
});

it("increases the retry delay after each failure, up to a few seconds", () => {
  openTty();
  for (let failure = 0; failure < 12; failure++) {
    FakeSocket.all.at(-1)?.close();
    vi.advanceTimersByTime(7_000);
  }
  expect(FakeSocket.all.length).toBe(13);
  FakeSocket.all.at(-1)?.close();
  vi.advanceTimersByTime(3_000);
  expect(FakeSocket.all.length).toBe(13);
});

it("pauses the session only while the screen is behind", () => {
  openTty();
  const [socket] = FakeSocket.all as [FakeSocket];
  socket.accept();
  const chunk = `0\x1b[H${"x".repeat(300_000)}`;
  socket.receive(chunk);
  expect(socket.sent).not.toContain("2");
  socket.receive(chunk);
  expect(socket.sent.filter((message) => message === "2").length).toBe(1);
  while (pendingWrites.length > 0) pendingWrites.shift()?.();
  expect(socket.sent.at(-1)).toBe("3");
  expect(shown.slice(3).join("").length).toBe(2 * (chunk.length - 1));
});

it("skips lines that would scroll out unseen, and shows the lines that remain", () => {
  openTty();
  const [socket] = FakeSocket.all as [FakeSocket];
  socket.accept();
  capacity = 100;
  const chunk = (number: number) => `0${`line of ${number}\r\n`.repeat(5_000)}`;
  for (let number = 0; number < 50; number++) socket.receive(chunk(number));
  while (pendingWrites.length > 0) pendingWrites.shift()?.();
  const all = shown.slice(3).join("");
  expect(all).toContain("line of 0");
  expect(all).not.toContain("line of 30");
  expect(all.endsWith("line of 49\r\n".repeat(5_000))).toBe(true);
  expect(socket.sent).not.toContain("2");
});

it("skips nothing while unparsed output may change how lines behave", () => {
  openTty();
  const [socket] = FakeSocket.all as [FakeSocket];
  socket.accept();
  capacity = 100;
  socket.receive(`0\x1b[2;5r${"x".repeat(200_000)}`);
  for (let number = 0; number < 9; number++) socket.receive(`0${`line of ${number}\r\n`.repeat(500)}`);
  capacity = undefined;
  while (pendingWrites.length > 0) pendingWrites.shift()?.();
  const all = shown.slice(3).join("");
  for (let number = 0; number < 9; number++) expect(all).toContain(`line of ${number}`);
});

it("does not reconnect after close", () => {
  const tty = openTty();
  FakeSocket.all[0]?.accept();
  tty.close();
  vi.advanceTimersByTime(60_000);
  expect(FakeSocket.all.length).toBe(1);
});

it("makes a full-screen program draw again after the scrollback was sent", () => {
  openTty();
  const [socket] = FakeSocket.all as [FakeSocket];
  const show = () => {
    for (const finished of pendingWrites.splice(0)) finished();
  };
  const sizes = () => socket.sent.filter((message) => message.startsWith("1")).map((message) => JSON.parse(message.slice(1)).rows);
  socket.accept();
  socket.receive("0the first part");
  show();
  fullScreen = true;
  socket.receive("0and the rest");
  expect(sizes()).toEqual([]);
  show();
  expect(sizes()).toEqual([23]);
  vi.runOnlyPendingTimers();
  expect(sizes()).toEqual([23, 24]);
  socket.receive("0drawn");
  show();
  expect(sizes()).toEqual([23, 24]);
});

it("leaves a program alone that was started while it was shown", () => {
  const tty = openTty();
  const [socket] = FakeSocket.all as [FakeSocket];
  socket.accept();
  socket.receive("0$ ");
  for (const finished of pendingWrites.splice(0)) finished();
  tty.input("vim\r");
  fullScreen = true;
  socket.receive("0drawn");
  for (const finished of pendingWrites.splice(0)) finished();
  expect(socket.sent.filter((message) => message.startsWith("1"))).toEqual([]);
});
