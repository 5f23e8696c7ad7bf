// Terminal input over connections that fail at any point: each byte is delivered once and in order.
import { expect, it } from "vitest";
import { InputBuffer } from "./inputBuffer";

const decoder = new TextDecoder();

/** A seeded random number generator (mulberry32). */
function seededRandom(seed: number) {
  let state = seed;
  return (below: number) => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
  };
}

it.each(Array.from({ length: 60 }, (_, seed) => seed))("delivers each byte once whatever is lost (%i)", (seed) => {
  const random = seededRandom(seed);
  const input = new InputBuffer();
  let typed = "";
  let terminal = "";
  // The session's side of the current connection: input begins at `at`, and bytes that it already has are skipped.
  let at = 0;
  let inFlight: string[] = [];
  let acknowledgements: number[] = [];
  const connect = () => {
    at = input.connect().from;
    inFlight = [];
    acknowledgements = [terminal.length];
  };
  const send = () => {
    for (let message = input.nextMessage(); message; message = input.nextMessage()) inFlight.push(decoder.decode(message.subarray(1)));
  };
  const deliver = () => {
    const message = inFlight.shift();
    if (message === undefined) return;
    terminal += message.slice(Math.max(0, terminal.length - at));
    at += message.length;
    acknowledgements.push(terminal.length);
  };
  const acknowledge = () => {
    const count = acknowledgements.shift();
    if (count !== undefined) input.acknowledge(count);
  };
  connect();
  for (let step = 0; step < 200; step++) {
    const action = random(10);
    if (action < 3) {
      const more = String.fromCharCode(97 + random(26)).repeat(1 + random(9));
      input.push(more);
      typed += more;
      send();
    } else if (action < 6) deliver();
    else if (action < 9) acknowledge();
    else {
      // Some messages in flight still arrive, and their acknowledgements are lost.
      for (let left = random(3); left > 0; left--) deliver();
      connect();
      send();
    }
    if (!typed.startsWith(terminal)) expect(terminal).toBe(typed);
  }
  connect();
  send();
  while (inFlight.length > 0) deliver();
  expect(terminal).toBe(typed);
});

it("splits a large paste into messages, and rejects input that does not fit", () => {
  const input = new InputBuffer();
  input.connect();
  expect(input.push("x".repeat(150_000))).toBe(true);
  const lengths: number[] = [];
  for (let message = input.nextMessage(); message; message = input.nextMessage()) lengths.push(message.length);
  expect(lengths).toEqual([65_537, 65_537, 18_929]);
  expect(input.push("x".repeat(4 * 1024 * 1024))).toBe(false);
  input.acknowledge(150_000);
  expect(input.push("x".repeat(4 * 1024 * 1024))).toBe(true);
});
