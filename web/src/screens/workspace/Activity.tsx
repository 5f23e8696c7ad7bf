// What happened to the project, in words, the newest first.
import { Text, Timeline } from "@mantine/core";
import { useEffect, useState } from "react";
import type { Project } from "../../api/client";
import { type Event, follow } from "../../api/live";
import { ago, at } from "../../logic/time";

/** Events that are kept on the page. */
const most = 500;
const colours: Partial<Record<Event["kind"], string>> = {
  attemptFailed: "red", databaseLost: "red", repositoryFailed: "red", startCommandExited: "yellow", repaired: "yellow",
};

export default function Activity({ project }: { project: Project }) {
  const [events, setEvents] = useState<Event[]>([]);
  const [read, setRead] = useState(false);
  useEffect(() => {
    setEvents([]);
    return follow<Event>(
      (after) => `/api/projects/${project.id}/events${after ? `?cursor=${after}` : ""}`,
      (event) => setEvents((events) => [event, ...events].slice(0, most)),
      (open) => open && setRead(true),
    );
  }, [project.id]);
  if (events.length === 0) {
    return <div className="empty">{read ? <Text size="sm">Nothing happened yet.</Text> : null}</div>;
  }
  return (
    <div style={{ padding: "16px 20px" }}>
      <Timeline bulletSize={10} lineWidth={1} color="gray" active={events.length}>
        {events.map((event) => (
          <Timeline.Item key={event.id} color={colours[event.kind] ?? "gray"} mb={-8}>
            <Text size="sm" mt={-4} style={{ overflowWrap: "anywhere" }}>
              {event.message}
            </Text>
            <Text size="xs" c="dimmed" title={at(event.createdAt)}>
              {ago(event.createdAt)}
            </Text>
          </Timeline.Item>
        ))}
      </Timeline>
    </div>
  );
}
