// Command palette: fuzzy search over projects, views and lifecycle actions.
import { Group, Modal, Text, TextInput, UnstyledButton } from "@mantine/core";
import { IconSearch } from "@tabler/icons-react";
import { useQuery } from "@tanstack/react-query";
import { useNavigate, useParams } from "@tanstack/react-router";
import { type KeyboardEvent, useState } from "react";
import { me, project as projectQuery, projects, useCreateSnapshot, useHasSnapshots, useLifecycleAction } from "../api/queries";
import { branchReference } from "../logic/branch";
import { fuzzyFilter } from "../logic/fuzzy";
import { hasRole, projectSlug } from "../logic/role";
import { canStart, canStop, phaseStatus } from "../logic/status";
import { views } from "../router";
import type { OpenSwitcher } from "./BranchSwitcher";

interface Command {
  title: string;
  detail: string;
  run: () => void;
}

const maxResults = 12;

export default function Palette({ close, openSwitcher }: { close: () => void; openSwitcher: (what: OpenSwitcher) => void }) {
  const navigate = useNavigate();
  const { project: current } = useParams({ strict: false });
  const all = useQuery(projects).data ?? [];
  // As the workspace shows it; the list may have an earlier phase.
  const currentProject = useQuery({ ...projectQuery(current ?? ""), enabled: current !== undefined }).data;
  const currentUser = useQuery(me).data;
  const hasSnapshots = useHasSnapshots(currentProject?.region);
  const lifecycle = useLifecycleAction();
  const createSnapshot = useCreateSnapshot();
  const [query, setQuery] = useState("");
  const [selected, setSelected] = useState(0);

  const commands: Command[] = [];
  if (currentProject && current) {
    const detail = branchReference(currentProject.name, currentProject.branch);
    // On a wide page the terminal is shown beside every view.
    const small = matchMedia("(max-width: 800px)").matches;
    for (const view of views.filter((view) => small || view !== "terminal")) {
      const title = view[0]?.toUpperCase() + view.slice(1);
      commands.push({
        title,
        detail,
        run: () => void navigate({ to: "/p/$project", params: { project: current }, search: { view } }),
      });
    }
    commands.push({ title: "Switch branch…", detail, run: () => openSwitcher({ part: "menu" }) });
    const phase = currentProject.sandbox?.status;
    const add = (title: string, action: "start" | "stop" | "restart") =>
      commands.push({ title, detail, run: () => lifecycle.mutate({ id: currentProject.reference, action }) });
    const canEdit = hasRole(currentProject.role, "editor");
    if (canEdit && canStart(phase)) add("Start sandbox", "start");
    if (canEdit && canStop(phase)) add("Stop sandbox", "stop");
    if (canEdit && phase === "RUNNING") add("Restart sandbox", "restart");
    if (canEdit && hasSnapshots) {
      commands.push({ title: "New branch…", detail, run: () => openSwitcher({ part: "create" }) });
      commands.push({
        title: "Create snapshot",
        detail,
        run: () => {
          createSnapshot.mutate({ project: currentProject.reference });
          void navigate({ to: "/p/$project", params: { project: current }, search: { view: "snapshots" } });
        },
      });
    }
  }
  for (const project of all) {
    commands.push({
      title: project.name,
      detail: phaseStatus(project.sandbox?.status).label,
      run: () => void navigate({ to: "/p/$project", params: { project: projectSlug(project, all) } }),
    });
  }
  commands.push({ title: "All projects", detail: "Go to", run: () => void navigate({ to: "/" }) });
  commands.push({ title: "Account", detail: "Go to", run: () => void navigate({ to: "/account" }) });
  if (currentUser?.role === "owner") {
    commands.push({ title: "Administration", detail: "Go to", run: () => void navigate({ to: "/administration" }) });
  }
  const results = fuzzyFilter(commands, query, (command) => command.title).slice(0, maxResults);
  const run = (command: Command | undefined) => {
    if (!command) return;
    close();
    command.run();
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key === "ArrowDown") setSelected((index) => Math.min(index + 1, results.length - 1));
    else if (event.key === "ArrowUp") setSelected((index) => Math.max(index - 1, 0));
    else if (event.key === "Enter") run(results[selected]);
    else return;
    event.preventDefault();
  };

  return (
    <Modal.Root opened onClose={close} yOffset="12vh" centered={false}>
      <Modal.Overlay opacity={0.5} />
      <Modal.Content aria-label="Command palette">
      <TextInput
        data-autofocus
        aria-label="Search projects and commands"
        placeholder="Search projects and commands"
        leftSection={<IconSearch size={16} />}
        variant="unstyled"
        px="sm"
        py={6}
        value={query}
        onChange={(event) => {
          setQuery(event.currentTarget.value);
          setSelected(0);
        }}
        onKeyDown={onKeyDown}
        aria-activedescendant={`command-${selected}`}
        aria-controls="commands"
      />
      <div role="listbox" id="commands" aria-label="Commands" style={{ borderTop: "1px solid var(--line)", padding: 6 }}>
        {results.map((command, index) => (
          <UnstyledButton
            key={`${command.title} ${command.detail} ${index}`}
            id={`command-${index}`}
            role="option"
            aria-selected={index === selected}
            className="tab"
            w="100%"
            h={34}
            onMouseMove={() => setSelected(index)}
            onClick={() => run(command)}
          >
            <Group justify="space-between" w="100%" wrap="nowrap">
              <span className="clip">{command.title}</span>
              <Text span size="xs" c="dimmed">
                {command.detail}
              </Text>
            </Group>
          </UnstyledButton>
        ))}
        {results.length === 0 && (
          <Text size="sm" c="dimmed" p="xs">
            No results.
          </Text>
        )}
      </div>
      </Modal.Content>
    </Modal.Root>
  );
}
