// The keys of one terminal on the page, kept until the session has them: so none is lost with a connection, and
// none is typed twice. The protocol is told in crates/model/src/tty.rs; this is the client's half of it.

/** Bytes that are kept at most; more than a large paste that a busy program does not read. */
const kept = 4 * 1024 * 1024;
/** Of one message. The session takes 1 MiB. */
const piece = 64 * 1024;

const text = new TextEncoder();
const input = 0x30;

/** A name that nobody else has. `randomUUID` is for secure pages alone. */
function name(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export class Keys {
  readonly client = name();
  /** What was typed, from the byte `first` on. */
  private pieces: Uint8Array[] = [];
  private first = 0;
  private size = 0;
  /** The session has all before this byte. */
  private has = 0;
  /** Pieces that this connection was given. They stay until then: what is sent on a connection has no gaps. */
  private sent = 0;
  private session: "unknown" | "counts" | "old" = "unknown";

  /** A connection begins; what its first message says. */
  begin(): { client: string; from: number } {
    this.forget();
    this.sent = this.pieces.length;
    this.drop();
    const [oldest] = this.pieces;
    if (oldest && this.has > this.first) {
      const rest = oldest.slice(this.has - this.first);
      this.size -= oldest.length - rest.length;
      this.pieces[0] = rest;
      this.first = this.has;
    }
    this.sent = 0;
    return { client: this.client, from: this.first };
  }

  /** Somebody typed or pasted. False where too much waits already, and then nothing of it is kept. */
  push(typed: string | Uint8Array): boolean {
    const bytes = typeof typed === "string" ? text.encode(typed) : typed;
    if (this.size + bytes.length > kept) return false;
    for (let at = 0; at < bytes.length; at += piece) this.pieces.push(bytes.slice(at, at + piece));
    this.size += bytes.length;
    return true;
  }

  /** The next message for this connection. */
  next(): Uint8Array<ArrayBuffer> | undefined {
    const bytes = this.pieces[this.sent];
    if (!bytes) return undefined;
    const message = new Uint8Array(bytes.length + 1);
    message[0] = input;
    message.set(bytes, 1);
    this.sent++;
    this.forget();
    return message;
  }

  /** The session has all before this byte. */
  taken(count: number) {
    this.session = "counts";
    if (count > this.has && count <= this.first + this.size) this.has = count;
    this.forget();
  }

  /** Another message came. A session that counts says so before anything else; an older one never does. */
  other() {
    if (this.session === "unknown") {
      this.session = "old";
      this.forget();
    }
  }

  /** The shell has ended: what was sent was for it, and not for the next one. */
  end() {
    while (this.sent > 0) this.shift();
  }

  private forget() {
    if (this.session === "old") this.end();
    else this.drop();
  }

  private drop() {
    for (let oldest = this.pieces[0]; oldest && this.sent > 0 && this.first + oldest.length <= this.has; oldest = this.pieces[0]) this.shift();
  }

  private shift() {
    const { length } = this.pieces.shift() ?? new Uint8Array();
    this.first += length;
    this.size -= length;
    this.sent--;
    this.has = Math.max(this.has, this.first);
  }
}
