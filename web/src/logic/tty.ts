// A viewer of one terminal session: ttyd's protocol over a WebSocket that comes back by itself.
// It knows nothing of the terminal on the screen, so that a test can be one.
import { Backlog } from "./backlog";
import { Keys } from "./keys";

export interface Screen {
  /** Shows output; calls back when it is on the screen, which is how the sender is slowed down. */
  write(bytes: Uint8Array, shown: () => void): void;
  /** Empties the screen: the session sends what it holds again. */
  reset(): void;
  /**
   * How many further lines push everything out that is there now; nothing where lines do more than
   * scroll: on the alternate screen, or between margins.
   */
  holds(): number | undefined;
  size(): { columns: number; rows: number };
  title(text: string): void;
  state(state: TtyState): void;
}

export type TtyState = "connecting" | "open" | "lost" | "closed";

/** Bytes that wait for the screen: above `high` the session is paused until they are below `low`. */
const high = 512 * 1024;
const low = 256 * 1024;
/** The same where most of them will be left out: more than a screen's lines take, and no memory to speak of. */
const highInRun = 16 * 1024 * 1024;
/** Bytes that the screen works at. More would only make a key wait. */
const atOnce = 96 * 1024;
/**
 * A flood: a run of which more than this waits. A screen that parses all the time leaves the page no time to
 * receive, and each picture of it costs as much again; so in a flood it gets a taste at a time, until in one
 * such time almost nothing came any more.
 */
const flooded = 128 * 1024;
const taste = 16 * 1024;
const tasteEvery = 125;
const firstWait = 200;
const longestWait = 5_000;
/** How a socket is closed whose shell has ended. */
const over = 1000;
/** A connection that neither opens nor fails is given up. */
const opening = 10_000;

const text = new TextEncoder();

export class Tty {
  private socket: WebSocket | undefined;
  private backlog = new Backlog();
  /** Bytes that the screen was given and does not show yet, and how many of its pieces are not plain. */
  private given = 0;
  private strange = 0;
  private flood: ReturnType<typeof setTimeout> | undefined;
  private came = 0;
  private paused = false;
  private wait = firstWait;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private keys = new Keys();
  private ended = false;
  private fresh = true;

  constructor(
    private readonly url: string,
    private readonly screen: Screen,
    private readonly open: (url: string) => WebSocket = (url) => new WebSocket(url, "tty"),
  ) {
    this.connect();
  }

  /** Keys, or what was pasted; sent again until the session has them. False where too much waits already. */
  input(keys: string | Uint8Array): boolean {
    const fits = this.keys.push(keys);
    this.send();
    return fits;
  }

  resize() {
    const { columns, rows } = this.screen.size();
    if (columns > 0 && rows > 0) this.say(`1${JSON.stringify({ columns, rows })}`);
  }

  /** Tries now rather than when the wait is over. */
  hurry() {
    if (this.timer !== undefined) {
      clearTimeout(this.timer);
      this.wait = firstWait;
      this.connect();
    }
  }

  close() {
    this.ended = true;
    clearTimeout(this.timer);
    this.calm();
    this.socket?.close(1000);
    this.screen.state("closed");
  }

  private say(message: string) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(text.encode(message));
  }

  private send() {
    if (this.socket?.readyState !== WebSocket.OPEN) return;
    for (let message = this.keys.next(); message; message = this.keys.next()) this.socket.send(message);
  }

  private connect() {
    this.timer = undefined;
    this.screen.state("connecting");
    const socket = this.open(this.url);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    this.fresh = true;
    const limit = setTimeout(() => socket.close(), opening);
    socket.onopen = () => {
      clearTimeout(limit);
      this.wait = firstWait;
      this.backlog.clear();
      this.given = 0;
      this.strange = 0;
      this.calm();
      this.paused = false;
      socket.send(JSON.stringify({ AuthToken: "", ...this.screen.size(), ...this.keys.begin() }));
      this.send();
      this.screen.state("open");
    };
    socket.onmessage = (event: MessageEvent<ArrayBuffer | string>) => {
      const bytes = typeof event.data === "string" ? text.encode(event.data) : new Uint8Array(event.data);
      this.take(socket, bytes);
    };
    socket.onclose = (event) => {
      clearTimeout(limit);
      if (this.socket !== socket || this.ended) return;
      if (event.code === over) this.keys.end();
      this.socket = undefined;
      this.screen.state("lost");
      // Jitter, so that a server that comes back is not met by everybody at once.
      this.timer = setTimeout(() => this.connect(), this.wait * (0.75 + Math.random() / 2));
      this.wait = Math.min(this.wait * 2, longestWait);
    };
  }

  private take(socket: WebSocket, bytes: Uint8Array) {
    const body = bytes.subarray(1);
    if (bytes[0] === 0x33) {
      this.keys.taken(Number(new TextDecoder().decode(body)));
      return;
    }
    this.keys.other();
    if (bytes[0] === 0x31) {
      this.screen.title(new TextDecoder().decode(body));
    } else if (bytes[0] === 0x30) {
      if (this.fresh) {
        this.fresh = false;
        this.screen.reset();
      }
      this.backlog.push(body);
      this.came += body.length;
      if (this.flood === undefined && this.backlog.runs && this.backlog.size > flooded) this.endure(socket);
      if (this.flood === undefined) this.show(socket, atOnce);
      this.pace();
    }
  }

  /** Pauses the session, or lets it go on. */
  private pace() {
    const waiting = this.backlog.size + this.given;
    const [most, few] = this.backlog.runs ? [highInRun, highInRun / 4] : [high, low];
    if (this.paused ? waiting < few : waiting > most) {
      this.paused = !this.paused;
      this.say(this.paused ? "2" : "3");
    }
  }

  private endure(socket: WebSocket) {
    this.came = 0;
    this.flood = setTimeout(() => {
      const over = this.came < taste || !this.backlog.runs;
      this.flood = undefined;
      if (!over) this.endure(socket);
      this.show(socket, over ? atOnce : taste);
    }, tasteEvery);
  }

  private calm() {
    clearTimeout(this.flood);
    this.flood = undefined;
  }

  /** Gives the screen what it can work at, without what nobody would see. */
  private show(socket: WebSocket, most: number) {
    // What the screen has not parsed yet may change how lines behave.
    const kept = this.strange === 0 && this.backlog.runs ? this.screen.holds() : undefined;
    if (kept !== undefined) this.backlog.skip(kept);
    while (this.given < most) {
      const piece = this.backlog.take();
      if (!piece) return;
      const { length } = piece.bytes;
      this.given += length;
      if (!piece.plain) this.strange++;
      this.screen.write(piece.bytes, () => {
        if (this.socket !== socket) return;
        this.given -= length;
        if (!piece.plain) this.strange--;
        if (this.flood === undefined) this.show(socket, atOnce);
        this.pace();
      });
    }
  }
}
