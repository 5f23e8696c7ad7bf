// One project: the terminal beside one view of it, in panes whose border is remembered.
import { ActionIcon, Button, Group, Menu, Text, Title, Tooltip } from "@mantine/core";
import { useLocalStorage, useMediaQuery } from "@mantine/hooks";
import { IconDots, IconPlayerPlay, IconPlayerStop, IconRefresh } from "@tabler/icons-react";
import { useQuery } from "@tanstack/react-query";
import { Link, useNavigate, useParams, useSearch } from "@tanstack/react-router";
import { type KeyboardEvent, type PointerEvent, Suspense, lazy, useEffect, useRef } from "react";
import { ApiError, type Project, sentence } from "../../api/client";
import { project as projectQuery, useWish } from "../../api/queries";
import { may } from "../../logic/role";
import { canStart, canStop, look } from "../../logic/status";
import { type View, views } from "../../router";
import { Status } from "../Status";
import { Stages } from "./Stages";

const Terminals = lazy(() => import("./Terminals"));
const screens: Record<Exclude<View, "terminal">, React.LazyExoticComponent<React.ComponentType<{ project: Project }>>> = {
  preview: lazy(() => import("./Preview")),
  files: lazy(() => import("./Files")),
  git: lazy(() => import("./Git")),
  tasks: lazy(() => import("./Tasks")),
  logs: lazy(() => import("./Logs")),
  activity: lazy(() => import("./Activity")),
  environment: lazy(() => import("./Environment")),
  database: lazy(() => import("./Database")),
  settings: lazy(() => import("./Settings")),
};
/** What there is to see without a running sandbox. */
const always: View[] = ["tasks", "activity", "environment", "database", "settings"];
const narrowest = 20;
const widest = 80;

export function Workspace() {
  const { project: name } = useParams({ from: "/inside/p/$project" });
  const found = useQuery(projectQuery(name));
  useEffect(() => {
    document.title = `${name} · FullStack Agent`;
    return () => {
      document.title = "FullStack Agent";
    };
  }, [name]);
  if (found.data && !(found.error instanceof ApiError && found.error.status === 404)) return <Panes project={found.data} key={found.data.id} />;
  if (found.isPending) return null;
  const gone = found.error instanceof ApiError && found.error.status === 404;
  return (
    <div className="empty" role="alert">
      <Title order={1} c="var(--mantine-color-text)">
        {gone ? `There is no project ${name}` : "The project cannot be shown"}
      </Title>
      <Text>{gone ? "It was deleted or renamed, or it is not yours." : sentence(found.error)}</Text>
      <Button component={Link} to="/" variant="default">
        Your projects
      </Button>
    </div>
  );
}

function Panes({ project }: { project: Project }) {
  const navigate = useNavigate();
  const small = useMediaQuery("(max-width: 800px)", undefined, { getInitialValueInEffect: false });
  const search = useSearch({ from: "/inside/p/$project" });
  const [share, setShare] = useLocalStorage({ key: "fsa.panes", defaultValue: 50, getInitialValueInEffect: false });
  const box = useRef<HTMLDivElement>(null);
  const wish = useWish();
  const works = may(project.role, "editor");
  const phase = project.sandbox?.status;
  const runs = phase === "RUNNING" || phase === "UPDATING";
  const asked = search.view ?? (small ? "terminal" : "preview");
  const view: View = asked === "terminal" && !small ? "preview" : asked;
  const go = (to: View) =>
    void navigate({ to: "/p/$project", params: { project: project.name }, search: { view: to }, replace: true });

  const drag = (event: PointerEvent) => {
    if (!event.currentTarget.hasPointerCapture(event.pointerId) || !box.current) return;
    const { left, width } = box.current.getBoundingClientRect();
    setShare(Math.min(widest, Math.max(narrowest, ((event.clientX - left) / width) * 100)));
  };
  const nudge = (event: KeyboardEvent) => {
    const by = event.key === "ArrowLeft" ? -2 : event.key === "ArrowRight" ? 2 : 0;
    if (by === 0) return;
    event.preventDefault();
    setShare((share) => Math.min(widest, Math.max(narrowest, share + by)));
  };

  const Screen = view === "terminal" ? undefined : screens[view];
  const offered = views.filter((one) => one !== "terminal" || small);
  return (
    <>
      <div className="tools">
        <Status phase={phase} />
        <Text size="xs" c="dimmed" className="clip grow" visibleFrom="xs">
          {project.image ?? project.template ?? "web"} · {project.size} · {project.region}
        </Text>
        <span className="grow" />
        {works && canStart(phase) && (
          <Button
            variant="filled"
            leftSection={<IconPlayerPlay size={14} />}
            onClick={() => wish.mutate({ id: project.id, wish: phase === undefined ? "remake" : "start" })}
          >
            Start
          </Button>
        )}
        {works && phase === "RUNNING" && (
          <Tooltip label="Start the sandbox anew; files stay">
            <ActionIcon aria-label="Restart" onClick={() => wish.mutate({ id: project.id, wish: "restart" })}>
              <IconRefresh size={16} />
            </ActionIcon>
          </Tooltip>
        )}
        {works && canStop(phase) && (
          <Button
            variant="default"
            leftSection={<IconPlayerStop size={14} />}
            onClick={() => wish.mutate({ id: project.id, wish: "stop" })}
          >
            Stop
          </Button>
        )}
        <Menu position="bottom-end">
          <Menu.Target>
            <ActionIcon aria-label="More">
              <IconDots size={16} />
            </ActionIcon>
          </Menu.Target>
          <Menu.Dropdown>
            <Menu.Item onClick={() => go("settings")}>Settings</Menu.Item>
            <Menu.Item onClick={() => wish.mutate({ id: project.id, wish: "terminate" })} disabled={!project.sandbox || !works}>
              Remove the sandbox, keep files and database
            </Menu.Item>
          </Menu.Dropdown>
        </Menu>
      </div>
      <div className="workspace" ref={box}>
        {!small && (
          <>
            <section className="pane" style={{ flex: `0 0 calc(${share}% - 3px)` }} aria-label="Terminal">
              <Left project={project} runs={runs} />
            </section>
            <div
              className="divider"
              role="separator"
              aria-orientation="vertical"
              aria-label="Width of the terminal"
              aria-valuenow={Math.round(share)}
              aria-valuemin={narrowest}
              aria-valuemax={widest}
              tabIndex={0}
              onPointerDown={(event) => event.currentTarget.setPointerCapture(event.pointerId)}
              onPointerMove={drag}
              onKeyDown={nudge}
              onDoubleClick={() => setShare(50)}
            />
          </>
        )}
        <section className="pane grow" aria-label="Views">
          <div className="tabs" role="tablist" aria-label="Views">
            {offered
              .toSorted((a, b) => Number(b === "terminal") - Number(a === "terminal"))
              .map((one) => (
                <button
                  key={one}
                  type="button"
                  role="tab"
                  id={`view-${one}`}
                  aria-selected={one === view}
                  className="tab"
                  ref={one === view ? (tab) => tab?.scrollIntoView({ block: "nearest", inline: "nearest" }) : undefined}
                  onClick={() => go(one)}
                >
                  {one[0]?.toUpperCase() + one.slice(1)}
                </button>
              ))}
          </div>
          <div className="body" role="tabpanel" tabIndex={0} aria-labelledby={`view-${view}`} style={view === "terminal" ? { display: "none" } : undefined}>
            <Suspense>
              {Screen && (runs || always.includes(view) ? <Screen project={project} /> : <Asleep project={project} view={view} />)}
            </Suspense>
          </div>
          {small && (
            <div className="body" style={view === "terminal" ? undefined : { display: "none" }}>
              <Left project={project} runs={runs} />
            </div>
          )}
        </section>
      </div>
    </>
  );
}

function Left({ project, runs }: { project: Project; runs: boolean }) {
  return runs ? (
    <Suspense>
      <Terminals project={project} />
    </Suspense>
  ) : (
    <Stages project={project} />
  );
}

/** What is not to be seen of a sandbox that does not run. */
const asleep: Partial<Record<View, string>> = {
  preview: "What the sandbox serves is",
  files: "The files are",
  git: "What git says is",
  logs: "The logs are",
};

function Asleep({ project, view }: { project: Project; view: View }) {
  const phase = project.sandbox?.status;
  const { moving, word } = look(phase);
  return (
    <div className="empty">
      <Text>{asleep[view] ?? "This is"} shown here when it runs.</Text>
      <Group gap="xs">
        <Text size="sm">{moving ? `${word} …` : phase === "ERROR" ? "It could not be made ready." : `It is ${word.toLowerCase()}.`}</Text>
      </Group>
    </div>
  );
}
