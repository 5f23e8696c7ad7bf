// Live updates: one event stream (SSE) for the whole page, which resumes after the last received event and
// invalidates cached queries that an event affects.
import type { QueryClient, QueryKey } from "@tanstack/react-query";
import { useSyncExternalStore } from "react";
import { endedReference, staleQueries } from "../logic/eventQueries";
import { discardUnsavedOf } from "../logic/unsaved";
import type { Schemas } from "./client";
import { me } from "./queries";

export type Event = Schemas["Event"];
export type ConnectionState = "connecting" | "open" | "lost";

const firstRetryDelay = 500;
const maxRetryDelay = 5_000;
/** A hidden page closes its connection after this time: browsers allow six per host. */
const hiddenTimeout = 20_000;

let connection: ConnectionState = "connecting";
const connectionListeners = new Set<() => void>();

function setConnection(next: ConnectionState) {
  if (connection === next) return;
  connection = next;
  for (const notify of connectionListeners) notify();
}

/** The state of the event stream. */
export function useConnectionState(): ConnectionState {
  return useSyncExternalStore(
    (notify) => {
      connectionListeners.add(notify);
      return () => connectionListeners.delete(notify);
    },
    () => connection,
  );
}

/**
 * Keeps an event stream open, with reconnects, until the returned function is called or its last message is
 * received. `names`: the event name of its messages, and of the last message if the stream ends.
 */
export function subscribe<T>(
  address: (after: string | undefined) => string,
  onMessage: (message: T) => void,
  onState: (open: boolean) => void,
  names: { each?: string; last?: string } = {},
): () => void {
  let source: EventSource | undefined;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let hideTimer: ReturnType<typeof setTimeout> | undefined;
  let delay = firstRetryDelay;
  let last: string | undefined;
  let stopped = false;

  const open = () => {
    timer = undefined;
    const stream = new EventSource(address(last));
    source = stream;
    stream.onopen = () => {
      delay = firstRetryDelay;
      onState(true);
    };
    stream.addEventListener(names.each ?? "message", (message: MessageEvent<string>) => {
      last = message.lastEventId || last;
      onMessage(JSON.parse(message.data) as T);
    });
    if (names.last) stream.addEventListener(names.last, () => stop());
    // The browser's own retry gives up after an error response and has no backoff, so it is not used.
    stream.onerror = () => {
      stream.close();
      if (source !== stream || stopped) return;
      source = undefined;
      onState(false);
      timer = setTimeout(open, delay * (0.75 + Math.random() / 2));
      delay = Math.min(delay * 2, maxRetryDelay);
    };
  };
  const onVisibilityChange = () => {
    clearTimeout(hideTimer);
    if (document.visibilityState === "hidden") {
      hideTimer = setTimeout(() => {
        source?.close();
        source = undefined;
        clearTimeout(timer);
        timer = undefined;
      }, hiddenTimeout);
    } else if (!source && timer === undefined) {
      open();
    }
  };
  function stop() {
    stopped = true;
    document.removeEventListener("visibilitychange", onVisibilityChange);
    clearTimeout(timer);
    clearTimeout(hideTimer);
    source?.close();
  }
  document.addEventListener("visibilitychange", onVisibilityChange);
  open();
  return stop;
}

/** Subscribes to the events of the user's projects until the returned function is called. */
export function subscribeToEvents(queries: QueryClient): () => void {
  let everOpen = false;
  return subscribe<Event>(
    (after) => (after ? `/api/events?cursor=${after}` : "/api/events?tail=true"),
    (event) => {
      const user = queries.getQueryData(me.queryKey)?.id;
      const ended = endedReference(event);
      if (user !== undefined && ended !== undefined) discardUnsavedOf(localStorage, user, ended);
      invalidateForEvent(queries, event);
    },
    (open) => {
      setConnection(open ? "open" : "lost");
      if (!open) return;
      // Data that was read before the stream opened may have changed before it opened. After a reconnect everything
      // is read again, because some data has no events.
      if (everOpen) invalidate(queries, []);
      else for (const key of ["projects", "project", "project-details"]) invalidate(queries, [key]);
      everOpen = true;
    },
  );
}

function invalidateForEvent(queries: QueryClient, event: Event) {
  for (const key of staleQueries(event)) invalidate(queries, key);
}

/**
 * Invalidates all queries below this key. The cache does not restart a first fetch that is in flight, whose
 * response may predate the change: that query is invalidated again when the response arrives.
 */
function invalidate(queries: QueryClient, queryKey: QueryKey) {
  for (const query of queries.getQueryCache().findAll({ queryKey, fetchStatus: "fetching" })) {
    if (query.state.data !== undefined) continue;
    const refetch = () => queries.invalidateQueries({ queryKey: query.queryKey, exact: true });
    query.promise?.then(refetch, () => {});
  }
  void queries.invalidateQueries({ queryKey });
}
