// What happens to the caller's projects, as it happens: one stream of events for the whole page,
// which resumes after the last event that it saw and marks what changed as stale.
import type { QueryClient, QueryKey } from "@tanstack/react-query";
import { useSyncExternalStore } from "react";
import type { Schemas } from "./client";

export type Event = Schemas["Event"];
export type Line = "connecting" | "live" | "away";

const firstWait = 500;
const longestWait = 5_000;
/** A page that nobody looks at gives its connection back: browsers have six per host. */
const hiddenFor = 20_000;

let line: Line = "connecting";
const watchers = new Set<() => void>();
const listeners = new Set<(event: Event) => void>();

function become(next: Line) {
  if (line === next) return;
  line = next;
  for (const tell of watchers) tell();
}

/** Whether the stream is there. */
export function useLine(): Line {
  return useSyncExternalStore(
    (tell) => {
      watchers.add(tell);
      return () => watchers.delete(tell);
    },
    () => line,
  );
}

/** Hears each event until the returned function is called. */
export function onEvent(hear: (event: Event) => void): () => void {
  listeners.add(hear);
  return () => listeners.delete(hear);
}

/**
 * Keeps a stream open until the returned function is called, or until its last message has come. `names`: what its
 * messages are called, and the last of all, where there is one.
 */
export function follow<T>(
  address: (after: string | undefined) => string,
  hear: (message: T) => void,
  state: (open: boolean) => void,
  names: { each?: string; last?: string } = {},
): () => void {
  let source: EventSource | undefined;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let hiding: ReturnType<typeof setTimeout> | undefined;
  let wait = firstWait;
  let last: string | undefined;
  let ended = false;

  const open = () => {
    timer = undefined;
    const stream = new EventSource(address(last));
    source = stream;
    stream.onopen = () => {
      wait = firstWait;
      state(true);
    };
    stream.addEventListener(names.each ?? "message", (message: MessageEvent<string>) => {
      last = message.lastEventId || last;
      hear(JSON.parse(message.data) as T);
    });
    if (names.last) stream.addEventListener(names.last, () => stop());
    // The browser's own retry gives up after a refusal and keeps no pace, so it is not used.
    stream.onerror = () => {
      stream.close();
      if (source !== stream || ended) return;
      source = undefined;
      state(false);
      timer = setTimeout(open, wait * (0.75 + Math.random() / 2));
      wait = Math.min(wait * 2, longestWait);
    };
  };
  const seen = () => {
    clearTimeout(hiding);
    if (document.visibilityState === "hidden") {
      hiding = setTimeout(() => {
        source?.close();
        source = undefined;
        clearTimeout(timer);
        timer = undefined;
      }, hiddenFor);
    } else if (!source && timer === undefined) {
      open();
    }
  };
  function stop() {
    ended = true;
    document.removeEventListener("visibilitychange", seen);
    clearTimeout(timer);
    clearTimeout(hiding);
    source?.close();
  }
  document.addEventListener("visibilitychange", seen);
  open();
  return stop;
}

/** Follows the caller's events for as long as the page is there. */
export function live(queries: QueryClient): () => void {
  let everOpen = false;
  return follow<Event>(
    (after) => (after ? `/api/events?cursor=${after}` : "/api/events?tail=true"),
    (event) => {
      stale(queries, event);
      for (const hear of listeners) hear(event);
    },
    (open) => {
      become(open ? "live" : "away");
      if (!open) return;
      // What was read before the stream began may have changed before it began; and what happened while it was
      // away, also to what has no events, is asked for once.
      if (everOpen) outdate(queries, []);
      else for (const key of ["projects", "project", "inside"]) outdate(queries, [key]);
      everOpen = true;
    },
  );
}

function stale(queries: QueryClient, event: Event) {
  outdate(queries, ["projects"]);
  outdate(queries, ["project", event.projectId]);
  if (event.kind === "projectChanged" || event.kind.startsWith("member") || event.kind === "environmentChanged" || event.kind.startsWith("database")) {
    outdate(queries, ["inside", event.projectId]);
  }
}

/**
 * Has everything below this key read again. The cache does not begin a first reading anew, and its answer may be
 * from before the change: that is read again once it has come.
 */
function outdate(queries: QueryClient, queryKey: QueryKey) {
  for (const query of queries.getQueryCache().findAll({ queryKey, fetchStatus: "fetching" })) {
    if (query.state.data !== undefined) continue;
    const again = () => queries.invalidateQueries({ queryKey: query.queryKey, exact: true });
    query.promise?.then(again, () => {});
  }
  void queries.invalidateQueries({ queryKey });
}
