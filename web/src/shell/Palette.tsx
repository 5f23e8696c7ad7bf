// The command palette: every project and every place, by a few letters.
import { Group, Modal, Text, TextInput, UnstyledButton } from "@mantine/core";
import { IconSearch } from "@tabler/icons-react";
import { useQuery } from "@tanstack/react-query";
import { useNavigate, useParams } from "@tanstack/react-router";
import { type KeyboardEvent, useState } from "react";
import { me, projects, useWish } from "../api/queries";
import { ranked } from "../logic/match";
import { addressed, may } from "../logic/role";
import { canStart, canStop, look } from "../logic/status";
import { views } from "../router";

interface Command {
  title: string;
  hint: string;
  act: () => void;
}

const shown = 12;

export default function Palette({ close }: { close: () => void }) {
  const navigate = useNavigate();
  const { project: current } = useParams({ strict: false });
  const all = useQuery(projects).data ?? [];
  const who = useQuery(me).data;
  const wish = useWish();
  const [query, setQuery] = useState("");
  const [at, setAt] = useState(0);

  const commands: Command[] = [];
  const here = all.find((project) => project.id === current) ?? all.find((project) => project.name === current && addressed(project, all) === current);
  if (here && current) {
    // On a wide page the terminal is beside every view.
    const small = matchMedia("(max-width: 800px)").matches;
    for (const view of views.filter((view) => small || view !== "terminal")) {
      const title = view[0]?.toUpperCase() + view.slice(1);
      commands.push({
        title,
        hint: here.name,
        act: () => void navigate({ to: "/p/$project", params: { project: current }, search: { view } }),
      });
    }
    const phase = here.sandbox?.status;
    const act = (title: string, what: "start" | "stop" | "restart") =>
      commands.push({ title, hint: here.name, act: () => wish.mutate({ id: here.id, wish: what }) });
    const works = may(here.role, "editor");
    if (works && canStart(phase)) act("Start the sandbox", "start");
    if (works && canStop(phase)) act("Stop the sandbox", "stop");
    if (works && phase === "RUNNING") act("Restart the sandbox", "restart");
  }
  for (const project of all) {
    commands.push({
      title: project.name,
      hint: look(project.sandbox?.status).word,
      act: () => void navigate({ to: "/p/$project", params: { project: addressed(project, all) } }),
    });
  }
  commands.push({ title: "All projects", hint: "Go", act: () => void navigate({ to: "/" }) });
  commands.push({ title: "Account", hint: "Go", act: () => void navigate({ to: "/account" }) });
  if (who?.role === "owner") {
    commands.push({ title: "Administration", hint: "Go", act: () => void navigate({ to: "/administration" }) });
  }
  const found = ranked(commands, query, (command) => command.title).slice(0, shown);
  const run = (command: Command | undefined) => {
    if (!command) return;
    close();
    command.act();
  };
  const keys = (event: KeyboardEvent) => {
    if (event.key === "ArrowDown") setAt((at) => Math.min(at + 1, found.length - 1));
    else if (event.key === "ArrowUp") setAt((at) => Math.max(at - 1, 0));
    else if (event.key === "Enter") run(found[at]);
    else return;
    event.preventDefault();
  };

  return (
    <Modal.Root opened onClose={close} yOffset="12vh" centered={false}>
      <Modal.Overlay opacity={0.5} />
      <Modal.Content aria-label="Go to">
      <TextInput
        data-autofocus
        aria-label="Project or command"
        placeholder="Project or command"
        leftSection={<IconSearch size={16} />}
        variant="unstyled"
        px="sm"
        py={6}
        value={query}
        onChange={(event) => {
          setQuery(event.currentTarget.value);
          setAt(0);
        }}
        onKeyDown={keys}
        aria-activedescendant={`command-${at}`}
        aria-controls="commands"
      />
      <div role="listbox" id="commands" aria-label="Commands" style={{ borderTop: "1px solid var(--line)", padding: 6 }}>
        {found.map((command, index) => (
          <UnstyledButton
            key={`${command.title} ${command.hint} ${index}`}
            id={`command-${index}`}
            role="option"
            aria-selected={index === at}
            className="tab"
            w="100%"
            h={34}
            onMouseMove={() => setAt(index)}
            onClick={() => run(command)}
          >
            <Group justify="space-between" w="100%" wrap="nowrap">
              <span className="clip">{command.title}</span>
              <Text span size="xs" c="dimmed">
                {command.hint}
              </Text>
            </Group>
          </UnstyledButton>
        ))}
        {found.length === 0 && (
          <Text size="sm" c="dimmed" p="xs">
            Nothing matches.
          </Text>
        )}
      </div>
      </Modal.Content>
    </Modal.Root>
  );
}
