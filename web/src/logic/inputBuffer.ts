// Terminal input with client-side deduplication: typed bytes are kept until the session acknowledges them, so that
// a lost connection neither loses nor repeats input. The protocol is described in crates/model/src/tty.rs; this is
// the client's half.
import { randomId } from "./randomId";

/** Bytes that are kept at most; more than a large paste that a busy program does not read. */
const maxBuffered = 4 * 1024 * 1024;
/** Bytes of one message. The session accepts 1 MiB. */
const maxMessage = 64 * 1024;

const text = new TextEncoder();
/** The message type INPUT of ttyd's protocol. */
const inputType = 0x30;

export class InputBuffer {
  readonly client = randomId();
  /** The input from the sequence number `first` on. */
  private chunks: Uint8Array[] = [];
  private first = 0;
  private size = 0;
  /** The session has all bytes before this sequence number. */
  private acknowledged = 0;
  /** Chunks that were sent on this connection. They are kept until acknowledged: what a connection carries has no gaps. */
  private sent = 0;
  private session: "unknown" | "counting" | "legacy" = "unknown";

  /** Starts a connection; returns the fields of its first message. */
  connect(): { client: string; from: number } {
    this.discardDelivered();
    this.sent = this.chunks.length;
    this.discardAcknowledged();
    const [oldest] = this.chunks;
    if (oldest && this.acknowledged > this.first) {
      const rest = oldest.slice(this.acknowledged - this.first);
      this.size -= oldest.length - rest.length;
      this.chunks[0] = rest;
      this.first = this.acknowledged;
    }
    this.sent = 0;
    return { client: this.client, from: this.first };
  }

  /** Adds typed or pasted input. Returns false if it does not fit; then none of it is kept. */
  push(typed: string | Uint8Array): boolean {
    const bytes = typeof typed === "string" ? text.encode(typed) : typed;
    if (this.size + bytes.length > maxBuffered) return false;
    for (let at = 0; at < bytes.length; at += maxMessage) this.chunks.push(bytes.slice(at, at + maxMessage));
    this.size += bytes.length;
    return true;
  }

  /** The next message for this connection. */
  nextMessage(): Uint8Array<ArrayBuffer> | undefined {
    const bytes = this.chunks[this.sent];
    if (!bytes) return undefined;
    const message = new Uint8Array(bytes.length + 1);
    message[0] = inputType;
    message.set(bytes, 1);
    this.sent++;
    this.discardDelivered();
    return message;
  }

  /** The session acknowledged all bytes before this sequence number. */
  acknowledge(count: number) {
    this.session = "counting";
    if (count > this.acknowledged && count <= this.first + this.size) this.acknowledged = count;
    this.discardDelivered();
  }

  /** Another message was received. A session that counts acknowledges before it sends anything else; an older one never does. */
  receivedOther() {
    if (this.session === "unknown") {
      this.session = "legacy";
      this.discardDelivered();
    }
  }

  /** The shell exited: input that was sent to it must not reach the next shell. */
  shellExited() {
    this.discardSent();
  }

  private discardDelivered() {
    if (this.session === "legacy") this.discardSent();
    else this.discardAcknowledged();
  }

  private discardSent() {
    while (this.sent > 0) this.shift();
  }

  private discardAcknowledged() {
    for (let oldest = this.chunks[0]; oldest && this.sent > 0 && this.first + oldest.length <= this.acknowledged; oldest = this.chunks[0]) this.shift();
  }

  private shift() {
    const { length } = this.chunks.shift() ?? new Uint8Array();
    this.first += length;
    this.size -= length;
    this.sent--;
    this.acknowledged = Math.max(this.acknowledged, this.first);
  }
}
