// Keys over connections that break anywhere: each is typed once, in its order.
import { expect, it } from "vitest";
import { Keys } from "./keys";

const words = new TextDecoder();

/** Numbers that are the same each time (mulberry32). */
function chance(seed: number) {
  let state = seed;
  return (below: number) => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
  };
}

it.each(Array.from({ length: 60 }, (_, seed) => seed))("types each key once whatever is lost (%i)", (seed) => {
  const random = chance(seed);
  const keys = new Keys();
  let typed = "";
  let terminal = "";
  // The session's side of the newest connection: it takes what comes at `at` and leaves out what it has.
  let at = 0;
  let way: string[] = [];
  let answers: number[] = [];
  const connect = () => {
    at = keys.begin().from;
    way = [];
    answers = [terminal.length];
  };
  const send = () => {
    for (let message = keys.next(); message; message = keys.next()) way.push(words.decode(message.subarray(1)));
  };
  const read = () => {
    const message = way.shift();
    if (message === undefined) return;
    terminal += message.slice(Math.max(0, terminal.length - at));
    at += message.length;
    answers.push(terminal.length);
  };
  const hear = () => {
    const answer = answers.shift();
    if (answer !== undefined) keys.taken(answer);
  };
  connect();
  for (let step = 0; step < 200; step++) {
    const what = random(10);
    if (what < 3) {
      const more = String.fromCharCode(97 + random(26)).repeat(1 + random(9));
      keys.push(more);
      typed += more;
      send();
    } else if (what < 6) read();
    else if (what < 9) hear();
    else {
      // Some of what is under way still arrives, and nobody hears what is said of it.
      for (let left = random(3); left > 0; left--) read();
      connect();
      send();
    }
    if (!typed.startsWith(terminal)) expect(terminal).toBe(typed);
  }
  connect();
  send();
  while (way.length > 0) read();
  expect(terminal).toBe(typed);
});

it("cuts a large paste into messages, and refuses what it cannot keep", () => {
  const keys = new Keys();
  keys.begin();
  expect(keys.push("x".repeat(150_000))).toBe(true);
  const lengths: number[] = [];
  for (let message = keys.next(); message; message = keys.next()) lengths.push(message.length);
  expect(lengths).toEqual([65_537, 65_537, 18_929]);
  expect(keys.push("x".repeat(4 * 1024 * 1024))).toBe(false);
  keys.taken(150_000);
  expect(keys.push("x".repeat(4 * 1024 * 1024))).toBe(true);
});
