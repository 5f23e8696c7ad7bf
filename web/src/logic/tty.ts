// A viewer of one terminal session: ttyd's protocol over a WebSocket that comes back by itself.
// It knows nothing of the terminal on the screen, so that a test can be one.

export interface Screen {
  /** Shows output; calls back when it is on the screen, which is how the sender is slowed down. */
  write(bytes: Uint8Array, shown: () => void): void;
  /** Empties the screen: the session sends what it holds again. */
  reset(): void;
  size(): { columns: number; rows: number };
  title(text: string): void;
  state(state: TtyState): void;
}

export type TtyState = "connecting" | "open" | "lost" | "closed";

/** Bytes that wait for the screen: above `high` the session is paused until they are below `low`. */
const high = 512 * 1024;
const low = 64 * 1024;
/** Keys that are kept while the connection is away; more than anybody types in that time. */
const keptKeys = 64 * 1024;
const firstWait = 200;
const longestWait = 5_000;
/** A connection that neither opens nor fails is given up. */
const opening = 10_000;

const text = new TextEncoder();

export class Tty {
  private socket: WebSocket | undefined;
  private waiting = 0;
  private paused = false;
  private wait = firstWait;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private keys: Uint8Array<ArrayBuffer>[] = [];
  private keysLength = 0;
  private ended = false;
  private fresh = true;

  constructor(
    private readonly url: string,
    private readonly screen: Screen,
    private readonly open: (url: string) => WebSocket = (url) => new WebSocket(url, "tty"),
  ) {
    this.connect();
  }

  /** Keys, or what was pasted. While the connection is away they are kept, in order. */
  input(keys: string | Uint8Array) {
    const bytes = typeof keys === "string" ? text.encode(keys) : keys;
    const message = new Uint8Array(bytes.length + 1);
    message[0] = 0x30;
    message.set(bytes, 1);
    if (this.socket?.readyState === WebSocket.OPEN) {
      this.socket.send(message);
    } else if (this.keysLength + bytes.length <= keptKeys) {
      this.keys.push(message);
      this.keysLength += bytes.length;
    }
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
    this.socket?.close(1000);
    this.screen.state("closed");
  }

  private say(message: string) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(text.encode(message));
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
      this.waiting = 0;
      this.paused = false;
      socket.send(JSON.stringify({ AuthToken: "", ...this.screen.size() }));
      for (const key of this.keys) socket.send(key);
      this.keys = [];
      this.keysLength = 0;
      this.screen.state("open");
    };
    socket.onmessage = (event: MessageEvent<ArrayBuffer | string>) => {
      const bytes = typeof event.data === "string" ? text.encode(event.data) : new Uint8Array(event.data);
      this.take(socket, bytes);
    };
    socket.onclose = () => {
      clearTimeout(limit);
      if (this.socket !== socket || this.ended) return;
      this.socket = undefined;
      this.screen.state("lost");
      // Jitter, so that a server that comes back is not met by everybody at once.
      this.timer = setTimeout(() => this.connect(), this.wait * (0.75 + Math.random() / 2));
      this.wait = Math.min(this.wait * 2, longestWait);
    };
  }

  private take(socket: WebSocket, bytes: Uint8Array) {
    const body = bytes.subarray(1);
    if (bytes[0] === 0x31) {
      this.screen.title(new TextDecoder().decode(body));
    } else if (bytes[0] === 0x30) {
      if (this.fresh) {
        this.fresh = false;
        this.screen.reset();
      }
      this.waiting += body.length;
      if (this.waiting > high && !this.paused) {
        this.paused = true;
        this.say("2");
      }
      this.screen.write(body, () => {
        if (this.socket !== socket) return;
        this.waiting -= body.length;
        if (this.paused && this.waiting < low) {
          this.paused = false;
          this.say("3");
        }
      });
    }
  }
}
