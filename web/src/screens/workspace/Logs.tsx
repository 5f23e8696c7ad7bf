// Log view: output of the start command, of the git clone, and messages of the sandbox, streamed live.
import { Checkbox, Chip, Group, Text, TextInput } from "@mantine/core";
import { IconSearch } from "@tabler/icons-react";
import { useEffect, useLayoutEffect, useRef, useState } from "react";
import type { ProjectInBranch, Schemas } from "../../api/client";
import { subscribe } from "../../api/events";
import { stripAnsi } from "../../logic/ansi";
import { StartSuggestion } from "./StartSuggestion";

type Line = Schemas["LogLine"];
type Source = Line["source"];

/** Lines that the page keeps. */
const maxLines = 5_000;
const sources: Source[] = ["stdout", "stderr", "git", "sandbox"];

export default function Logs({ project }: { project: ProjectInBranch }) {
  const [lines, setLines] = useState<Line[]>([]);
  const [hidden, setHidden] = useState<Source[]>([]);
  const [query, setQuery] = useState("");
  const [following, setFollowing] = useState(true);
  const box = useRef<HTMLDivElement>(null);

  useEffect(() => {
    let pending: Line[] = [];
    let frame = 0;
    setLines([]);
    const stop = subscribe<Line>(
      (after) => `/api/projects/${project.reference}/logs${after ? `?cursor=${after}` : ""}`,
      (line) => {
        pending.push(line);
        // Lines that arrive in the same frame are rendered together.
        frame ||= requestAnimationFrame(() => {
          frame = 0;
          const added = pending;
          pending = [];
          setLines((lines) => [...lines, ...added].slice(-maxLines));
        });
      },
      () => {},
    );
    return () => {
      stop();
      cancelAnimationFrame(frame);
    };
  }, [project.reference]);

  const needle = query.toLowerCase();
  const shown = lines.filter((line) => !hidden.includes(line.source) && (needle === "" || line.text.toLowerCase().includes(needle)));
  useLayoutEffect(() => {
    if (following && box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [following, shown.length]);

  return (
    <>
      <div className="tools wraps">
        <TextInput
          size="xs"
          w={150}
          style={{ flex: "1 0 130px", maxWidth: 220 }}
          aria-label="Filter"
          placeholder="Filter"
          leftSection={<IconSearch size={13} />}
          value={query}
          onChange={(event) => setQuery(event.currentTarget.value)}
        />
        <Chip.Group multiple value={sources.filter((source) => !hidden.includes(source))} onChange={(on) => setHidden(sources.filter((source) => !on.includes(source)))}>
          <Group gap={4} wrap="nowrap">
            {sources.map((source) => (
              <Chip key={source} value={source} size="xs" variant="outline">
                {source}
              </Chip>
            ))}
          </Group>
        </Chip.Group>
        <span className="grow" />
        <Checkbox size="xs" label="Follow" checked={following} onChange={(event) => setFollowing(event.currentTarget.checked)} />
      </div>
      {lines.length === 0 ? (
        <div className="empty">
          <Text size="sm" maw={380}>
            No logs yet. {project.startCommand ? "" : "Set a start command in Settings or add a Procfile to see its output here."}
          </Text>
          <StartSuggestion project={project} />
        </div>
      ) : (
        <div className="log" ref={box} tabIndex={0} role="log" aria-label="Logs" aria-live="off">
          {shown.map((line) => (
            <div key={line.sequence} className={line.source}>
              <time dateTime={line.at}>{new Date(line.at).toLocaleTimeString(undefined, { hourCycle: "h23" })}</time>
              {stripAnsi(line.text)}
            </div>
          ))}
        </div>
      )}
    </>
  );
}
