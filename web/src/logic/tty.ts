// Client of one terminal session: ttyd's protocol over a WebSocket that reconnects automatically, with flow control.
// It does not depend on the terminal emulator, so that a test can stand in for it.
import { InputBuffer } from "./inputBuffer";
import { OutputQueue } from "./outputQueue";

export interface Screen {
  /** Shows output; calls back when it is on the screen. Flow control depends on the callback. */
  write(bytes: Uint8Array, shown: () => void): void;
  /** Clears the screen: the session sends its content again. */
  reset(): void;
  /**
   * The number of further lines that push out everything that is on the screen now; undefined while lines do more
   * than scroll: on the alternate screen, or between margins.
   */
  capacity(): number | undefined;
  size(): { columns: number; rows: number };
  /** Whether a full-screen program is shown (the alternate screen). */
  fullScreen(): boolean;
  title(text: string): void;
  state(state: TtyState): void;
}

export type TtyState = "connecting" | "open" | "lost" | "closed";

/** Bytes that wait for the screen: above `highWater` the session is paused until they are below `lowWater`. */
const highWater = 512 * 1024;
const lowWater = 256 * 1024;
/** The same while most bytes will be skipped: more than the lines of a screen take, and little memory. */
const highWaterSkippable = 16 * 1024 * 1024;
/** Bytes that the screen parses at a time. More would only delay input. */
const maxInScreen = 96 * 1024;
/**
 * A flood is skippable output of which more than `floodThreshold` waits. A screen that parses all the time leaves
 * the page no time to receive, and drawing costs as much again. So during a flood the screen gets one sample per
 * interval, until almost nothing was received in an interval.
 */
const floodThreshold = 128 * 1024;
const floodSample = 16 * 1024;
const floodInterval = 125;
const firstRetryDelay = 200;
const maxRetryDelay = 5_000;
/** The close code of a session whose shell exited. */
const shellExitedCode = 1000;
/** A connection that neither opens nor fails is closed after this time. */
const connectTimeout = 10_000;
/** How long the terminal is one row smaller, so that the program in it redraws its screen. */
const redrawDelay = 150;

/** Message types of ttyd's protocol, and ours for acknowledged input. */
const outputType = 0x30;
const titleType = 0x31;
const acknowledgedType = 0x33;

const encoder = new TextEncoder();
const decoder = new TextDecoder();

export class Tty {
  private socket: WebSocket | undefined;
  private output = new OutputQueue();
  /** Bytes that were passed to the screen and are not shown yet, and how many of their chunks are not plain. */
  private inScreen = 0;
  private notPlainInScreen = 0;
  private floodTimer: ReturnType<typeof setTimeout> | undefined;
  private receivedInInterval = 0;
  private paused = false;
  private retryDelay = firstRetryDelay;
  private retryTimer: ReturnType<typeof setTimeout> | undefined;
  private inputBuffer = new InputBuffer();
  private closed = false;
  private awaitingFirstOutput = true;
  /** The session has sent its scrollback, and what it shows may be incomplete. */
  private redrawDue = false;
  private redrawTimer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly url: string,
    private readonly screen: Screen,
    private readonly open: (url: string) => WebSocket = (url) => new WebSocket(url, "tty"),
  ) {
    this.connect();
  }

  /** Sends typed or pasted input, and resends it until the session has it. Returns false if the buffer is full. */
  input(typed: string | Uint8Array): boolean {
    // From now on a full-screen program has started while it was shown.
    this.redrawDue = false;
    const fits = this.inputBuffer.push(typed);
    this.sendInput();
    return fits;
  }

  resize() {
    this.sendSize(this.screen.size());
  }

  private sendSize({ columns, rows }: { columns: number; rows: number }) {
    if (columns > 0 && rows > 0) this.sendText(`1${JSON.stringify({ columns, rows })}`);
  }

  /**
   * Makes a full-screen program draw its screen again. The scrollback begins in the middle of what the program has
   * drawn, and most programs draw again only when the size changes.
   */
  private redraw() {
    const { columns, rows } = this.screen.size();
    this.sendSize({ columns, rows: rows - 1 });
    this.redrawTimer = setTimeout(() => this.resize(), redrawDelay);
  }

  /** Reconnects now instead of after the retry delay. */
  reconnectNow() {
    if (this.retryTimer !== undefined) {
      clearTimeout(this.retryTimer);
      this.retryDelay = firstRetryDelay;
      this.connect();
    }
  }

  close() {
    this.closed = true;
    clearTimeout(this.retryTimer);
    clearTimeout(this.redrawTimer);
    this.endFlood();
    this.socket?.close(1000);
    this.screen.state("closed");
  }

  private sendText(message: string) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(encoder.encode(message));
  }

  private sendInput() {
    if (this.socket?.readyState !== WebSocket.OPEN) return;
    for (let message = this.inputBuffer.nextMessage(); message; message = this.inputBuffer.nextMessage()) this.socket.send(message);
  }

  private connect() {
    this.retryTimer = undefined;
    this.screen.state("connecting");
    const socket = this.open(this.url);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    this.awaitingFirstOutput = true;
    const timeout = setTimeout(() => socket.close(), connectTimeout);
    socket.onopen = () => {
      clearTimeout(timeout);
      this.retryDelay = firstRetryDelay;
      this.output.clear();
      this.inScreen = 0;
      this.notPlainInScreen = 0;
      this.endFlood();
      this.paused = false;
      socket.send(JSON.stringify({ AuthToken: "", ...this.screen.size(), ...this.inputBuffer.connect() }));
      this.sendInput();
      this.screen.state("open");
    };
    socket.onmessage = (event: MessageEvent<ArrayBuffer | string>) => {
      const bytes = typeof event.data === "string" ? encoder.encode(event.data) : new Uint8Array(event.data);
      this.receive(socket, bytes);
    };
    socket.onclose = (event) => {
      clearTimeout(timeout);
      if (this.socket !== socket || this.closed) return;
      if (event.code === shellExitedCode) this.inputBuffer.shellExited();
      this.socket = undefined;
      this.screen.state("lost");
      // Jitter, so that clients do not all reconnect at once when the server comes back.
      this.retryTimer = setTimeout(() => this.connect(), this.retryDelay * (0.75 + Math.random() / 2));
      this.retryDelay = Math.min(this.retryDelay * 2, maxRetryDelay);
    };
  }

  private receive(socket: WebSocket, bytes: Uint8Array) {
    const body = bytes.subarray(1);
    if (bytes[0] === acknowledgedType) {
      this.inputBuffer.acknowledge(Number(decoder.decode(body)));
      return;
    }
    this.inputBuffer.receivedOther();
    if (bytes[0] === titleType) {
      this.screen.title(decoder.decode(body));
    } else if (bytes[0] === outputType) {
      if (this.awaitingFirstOutput) {
        this.awaitingFirstOutput = false;
        this.redrawDue = true;
        this.screen.reset();
      }
      this.output.push(body);
      this.receivedInInterval += body.length;
      if (this.floodTimer === undefined && this.output.skippable && this.output.size > floodThreshold) this.startFloodInterval(socket);
      if (this.floodTimer === undefined) this.flush(socket, maxInScreen);
      this.controlFlow();
    }
  }

  /** Pauses or resumes the session. */
  private controlFlow() {
    const waiting = this.output.size + this.inScreen;
    const [high, low] = this.output.skippable ? [highWaterSkippable, highWaterSkippable / 4] : [highWater, lowWater];
    if (this.paused ? waiting < low : waiting > high) {
      this.paused = !this.paused;
      this.sendText(this.paused ? "2" : "3");
    }
  }

  private startFloodInterval(socket: WebSocket) {
    this.receivedInInterval = 0;
    this.floodTimer = setTimeout(() => {
      const over = this.receivedInInterval < floodSample || !this.output.skippable;
      this.floodTimer = undefined;
      if (!over) this.startFloodInterval(socket);
      this.flush(socket, over ? maxInScreen : floodSample);
    }, floodInterval);
  }

  private endFlood() {
    clearTimeout(this.floodTimer);
    this.floodTimer = undefined;
  }

  /** Passes output to the screen until it has `limit` bytes to parse, and skips output that would never be visible. */
  private flush(socket: WebSocket, limit: number) {
    // Output that the screen has not parsed yet may change how lines behave.
    const capacity = this.notPlainInScreen === 0 && this.output.skippable ? this.screen.capacity() : undefined;
    if (capacity !== undefined) this.output.skip(capacity);
    while (this.inScreen < limit) {
      const chunk = this.output.take();
      if (!chunk) return;
      const { length } = chunk.bytes;
      this.inScreen += length;
      if (!chunk.plain) this.notPlainInScreen++;
      this.screen.write(chunk.bytes, () => {
        if (this.socket !== socket) return;
        this.inScreen -= length;
        if (!chunk.plain) this.notPlainInScreen--;
        if (this.floodTimer === undefined) this.flush(socket, maxInScreen);
        this.controlFlow();
        if (this.redrawDue && this.inScreen === 0 && this.output.size === 0 && this.screen.fullScreen()) {
          this.redrawDue = false;
          this.redraw();
        }
      });
    }
  }
}
