// Event history of a project, newest first.
import { Text } from "@mantine/core";
import { useEffect, useState } from "react";
import type { ProjectInBranch } from "../../api/client";
import { type Event, subscribe } from "../../api/events";
import { formatDateTime } from "../../logic/time";

/** Events that the page keeps. */
const maxEvents = 500;
const colors: Partial<Record<Event["kind"], string>> = {
  attemptFailed: "red", databaseLost: "red", repositoryFailed: "red", startCommandExited: "yellow", warned: "yellow", repaired: "yellow",
};

export default function Activity({ project }: { project: ProjectInBranch }) {
  const [events, setEvents] = useState<Event[]>([]);
  const [connected, setConnected] = useState(false);
  useEffect(() => {
    setEvents([]);
    return subscribe<Event>(
      (after) => `/api/projects/${project.reference}/events${after ? `?cursor=${after}` : ""}`,
      (event) => setEvents((events) => [event, ...events].slice(0, maxEvents)),
      (open) => open && setConnected(true),
    );
  }, [project.reference]);
  if (events.length === 0) {
    return <div className="empty">{connected ? <Text size="sm">No activity yet.</Text> : null}</div>;
  }
  return (
    <ol className="events" aria-label="Events">
      {events.map((event) => (
        <li key={event.id}>
          <time dateTime={event.createdAt} title={formatDateTime(event.createdAt)}>
            {new Date(event.createdAt).toLocaleTimeString(undefined, { hourCycle: "h23" })}
          </time>
          <span className="dot" style={{ "--dot": `var(--mantine-color-${colors[event.kind] ?? "gray"}-5)` } as React.CSSProperties} />
          <span style={{ overflowWrap: "anywhere" }}>{event.message}</span>
        </li>
      ))}
    </ol>
  );
}
