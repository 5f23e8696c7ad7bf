// What the start command, the clone of the repository and the sandbox itself wrote, as it comes.
import { Checkbox, Chip, Group, Text, TextInput } from "@mantine/core";
import { IconSearch } from "@tabler/icons-react";
import { useEffect, useLayoutEffect, useRef, useState } from "react";
import type { Project, Schemas } from "../../api/client";
import { follow } from "../../api/live";
import { plain } from "../../logic/ansi";

type Line = Schemas["LogLine"];
type Source = Line["source"];

/** Lines that are kept on the page. */
const most = 5_000;
const sources: Source[] = ["stdout", "stderr", "git", "sandbox"];

export default function Logs({ project }: { project: Project }) {
  const [lines, setLines] = useState<Line[]>([]);
  const [hidden, setHidden] = useState<Source[]>([]);
  const [query, setQuery] = useState("");
  const [following, setFollowing] = useState(true);
  const box = useRef<HTMLDivElement>(null);

  useEffect(() => {
    let fresh: Line[] = [];
    let frame = 0;
    setLines([]);
    const stop = follow<Line>(
      (after) => `/api/projects/${project.id}/logs${after ? `?cursor=${after}` : ""}`,
      (line) => {
        fresh.push(line);
        // Many lines in one frame are drawn once.
        frame ||= requestAnimationFrame(() => {
          frame = 0;
          const added = fresh;
          fresh = [];
          setLines((lines) => [...lines, ...added].slice(-most));
        });
      },
      () => {},
    );
    return () => {
      stop();
      cancelAnimationFrame(frame);
    };
  }, [project.id]);

  const wanted = query.toLowerCase();
  const shown = lines.filter((line) => !hidden.includes(line.source) && (wanted === "" || line.text.toLowerCase().includes(wanted)));
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
            Nothing was written. {project.startCommand ? "" : "Give the project a start command in its settings, or put a Procfile into its folder; its output is shown here."}
          </Text>
        </div>
      ) : (
        <div className="log" ref={box} tabIndex={0} role="log" aria-label="Logs" aria-live="off">
          {shown.map((line) => (
            <div key={line.sequence} className={line.source}>
              <time dateTime={line.at}>{new Date(line.at).toLocaleTimeString(undefined, { hourCycle: "h23" })}</time>
              {plain(line.text)}
            </div>
          ))}
        </div>
      )}
    </>
  );
}
