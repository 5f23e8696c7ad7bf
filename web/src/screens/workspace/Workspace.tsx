// Workspace of a project: the terminal beside one view, in resizable panes whose width is remembered.
import { ActionIcon, Button, Group, Menu, Text, Title, Tooltip } from "@mantine/core";
import { useLocalStorage, useMediaQuery } from "@mantine/hooks";
import { IconDots, IconPlayerPlay, IconPlayerStop, IconRefresh } from "@tabler/icons-react";
import { useQuery } from "@tanstack/react-query";
import { Link, useNavigate, useParams, useSearch } from "@tanstack/react-router";
import { type KeyboardEvent, type PointerEvent, Suspense, lazy, useEffect, useRef } from "react";
import { ApiError, type ProjectInBranch, errorMessage } from "../../api/client";
import { me, project as projectQuery, useLifecycleAction } from "../../api/queries";
import { mainBranch, parseReference } from "../../logic/branch";
import { hasRole } from "../../logic/role";
import { canStart, canStop, phaseStatus } from "../../logic/status";
import { type View, views } from "../../router";
import { Status } from "../Status";
import { Stages } from "./Stages";
import { openFiles } from "./openFiles";

const Terminals = lazy(() => import("./Terminals"));
const screens: Record<Exclude<View, "terminal">, React.LazyExoticComponent<React.ComponentType<{ project: ProjectInBranch }>>> = {
  preview: lazy(() => import("./Preview")),
  files: lazy(() => import("./Files")),
  git: lazy(() => import("./Git")),
  tasks: lazy(() => import("./Tasks")),
  logs: lazy(() => import("./Logs")),
  activity: lazy(() => import("./Activity")),
  environment: lazy(() => import("./Environment")),
  database: lazy(() => import("./Database")),
  snapshots: lazy(() => import("./Snapshots")),
  settings: lazy(() => import("./Settings")),
};
/** Views that work without a running sandbox. */
const availableWhenStopped: View[] = ["tasks", "activity", "environment", "database", "snapshots", "settings"];
const minWidth = 20;
const maxWidth = 80;

export function Workspace() {
  const { project: name } = useParams({ from: "/authenticated/p/$project" });
  const { branch } = parseReference(name);
  const found = useQuery(projectQuery(name));
  useEffect(() => {
    document.title = `${name} · FullStack Agent`;
    return () => {
      document.title = "FullStack Agent";
    };
  }, [name]);
  if (found.data && !(found.error instanceof ApiError && found.error.status === 404)) return <Panes project={found.data} key={found.data.reference} />;
  if (found.isPending) return null;
  const notFound = found.error instanceof ApiError && found.error.status === 404;
  return (
    <div className="empty" role="alert">
      <Title order={1} c="var(--mantine-color-text)">
        {notFound ? (branch === mainBranch ? `Project ${name} not found` : `Branch ${branch} not found`) : "Failed to load project"}
      </Title>
      <Text>{notFound ? "It was deleted or renamed, or you do not have access." : errorMessage(found.error)}</Text>
      <Group>
        {notFound && branch !== mainBranch && (
          <Button renderRoot={(props) => <Link to="/p/$project" params={{ project: parseReference(name).project }} {...props} />}>
            Go to main
          </Button>
        )}
        <Button component={Link} to="/" variant="default">
          Go to projects
        </Button>
      </Group>
    </div>
  );
}

function Panes({ project }: { project: ProjectInBranch }) {
  const navigate = useNavigate();
  // In a URL of an id, which a project of another owner has, the name would be another project.
  const { project: slug } = useParams({ from: "/authenticated/p/$project" });
  const small = useMediaQuery("(max-width: 800px)", undefined, { getInitialValueInEffect: false });
  const search = useSearch({ from: "/authenticated/p/$project" });
  const [terminalWidth, setTerminalWidth] = useLocalStorage({ key: "fsa.panes", defaultValue: 50, getInitialValueInEffect: false });
  const container = useRef<HTMLDivElement>(null);
  const lifecycle = useLifecycleAction();
  const canEdit = hasRole(project.role, "editor");
  const phase = project.sandbox?.status;
  const running = phase === "RUNNING" || phase === "UPDATING";
  const requested = search.view ?? (small ? "terminal" : "preview");
  const view: View = requested === "terminal" && !small ? "preview" : requested;
  const showView = (to: View) =>
    void navigate({ to: "/p/$project", params: { project: slug }, search: { view: to }, replace: true });

  const drag = (event: PointerEvent) => {
    if (!event.currentTarget.hasPointerCapture(event.pointerId) || !container.current) return;
    const { left, width } = container.current.getBoundingClientRect();
    setTerminalWidth(Math.min(maxWidth, Math.max(minWidth, ((event.clientX - left) / width) * 100)));
  };
  const resizeByKey = (event: KeyboardEvent) => {
    const by = event.key === "ArrowLeft" ? -2 : event.key === "ArrowRight" ? 2 : 0;
    if (by === 0) return;
    event.preventDefault();
    setTerminalWidth((width) => Math.min(maxWidth, Math.max(minWidth, width + by)));
  };

  const Screen = view === "terminal" ? undefined : screens[view];
  const available = views.filter((one) => one !== "terminal" || small);
  return (
    <>
      <div className="tools">
        <Status phase={phase} />
        <Text size="xs" c="dimmed" className="clip grow" visibleFrom="xs">
          {project.image ?? project.template ?? "web"} · {project.size} · {project.region}
        </Text>
        <span className="grow" />
        {canEdit && canStart(phase) && (
          <Button
            variant="filled"
            leftSection={<IconPlayerPlay size={14} />}
            onClick={() => lifecycle.mutate({ id: project.reference, action: phase === undefined ? "recreate" : "start" })}
          >
            Start
          </Button>
        )}
        {canEdit && phase === "RUNNING" && (
          <Tooltip label="Restart sandbox (files are kept)">
            <ActionIcon aria-label="Restart" onClick={() => lifecycle.mutate({ id: project.reference, action: "restart" })}>
              <IconRefresh size={16} />
            </ActionIcon>
          </Tooltip>
        )}
        {canEdit && canStop(phase) && (
          <Button
            variant="default"
            leftSection={<IconPlayerStop size={14} />}
            onClick={() => lifecycle.mutate({ id: project.reference, action: "stop" })}
          >
            Stop
          </Button>
        )}
        <Menu position="bottom-end">
          <Menu.Target>
            <ActionIcon aria-label="More actions">
              <IconDots size={16} />
            </ActionIcon>
          </Menu.Target>
          <Menu.Dropdown>
            <Menu.Item onClick={() => showView("settings")}>Settings</Menu.Item>
            <Menu.Item onClick={() => lifecycle.mutate({ id: project.reference, action: "terminate" })} disabled={!project.sandbox || !canEdit}>
              Terminate sandbox (files and database are kept)
            </Menu.Item>
          </Menu.Dropdown>
        </Menu>
      </div>
      <div className="workspace" ref={container}>
        {!small && (
          <>
            <section className="pane" style={{ flex: `0 0 calc(${terminalWidth}% - 3px)` }} aria-label="Terminal">
              <TerminalPane project={project} running={running} />
            </section>
            <div
              className="divider"
              role="separator"
              aria-orientation="vertical"
              aria-label="Terminal width"
              aria-valuenow={Math.round(terminalWidth)}
              aria-valuemin={minWidth}
              aria-valuemax={maxWidth}
              tabIndex={0}
              onPointerDown={(event) => event.currentTarget.setPointerCapture(event.pointerId)}
              onPointerMove={drag}
              onKeyDown={resizeByKey}
              onDoubleClick={() => setTerminalWidth(50)}
            />
          </>
        )}
        <section className="pane grow" aria-label="Views">
          <div className="tabs" role="tablist" aria-label="Views">
            {available
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
                  onClick={() => showView(one)}
                >
                  {one[0]?.toUpperCase() + one.slice(1)}
                </button>
              ))}
          </div>
          <div className="body" role="tabpanel" tabIndex={0} aria-labelledby={`view-${view}`} style={view === "terminal" ? { display: "none" } : undefined}>
            <Suspense>
              {Screen && (running || availableWhenStopped.includes(view) ? <Screen project={project} /> : <NotRunning project={project} view={view} />)}
            </Suspense>
          </div>
          {small && (
            <div className="body" style={view === "terminal" ? undefined : { display: "none" }}>
              <TerminalPane project={project} running={running} />
            </div>
          )}
        </section>
      </div>
    </>
  );
}

function TerminalPane({ project, running }: { project: ProjectInBranch; running: boolean }) {
  return running ? (
    <Suspense>
      <Terminals project={project} />
    </Suspense>
  ) : (
    <Stages project={project} />
  );
}

/** Views that need a running sandbox, as the subject of a sentence. */
const subjects: Partial<Record<View, string>> = {
  preview: "The preview is",
  files: "Files are",
  git: "Git is",
  logs: "Logs are",
};

function NotRunning({ project, view }: { project: ProjectInBranch; view: View }) {
  const phase = project.sandbox?.status;
  const { inProgress, label } = phaseStatus(phase);
  const user = useQuery(me).data?.id;
  const unsaved = user === undefined ? 0 : openFiles(project.reference, user).dirtyPaths().length;
  return (
    <div className="empty">
      <Text>{subjects[view] ?? "This view is"} available while the sandbox is running.</Text>
      {view === "files" && unsaved > 0 && (
        <Text size="sm">{unsaved === 1 ? "The unsaved changes of a file are kept." : `The unsaved changes of ${unsaved} files are kept.`}</Text>
      )}
      <Group gap="xs">
        <Text size="sm">{inProgress ? `${label}…` : phase === "ERROR" ? "The sandbox failed to start." : `Status: ${label.toLowerCase()}`}</Text>
      </Group>
    </div>
  );
}
