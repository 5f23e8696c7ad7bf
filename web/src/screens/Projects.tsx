// Project list: one row for each project of the user, updated live.
import { ActionIcon, Button, Group, Select, Skeleton, Text, TextInput, Title, Tooltip } from "@mantine/core";
import { useHotkeys, useLocalStorage } from "@mantine/hooks";
import { IconPlayerPlay, IconPlayerStop, IconPlus, IconSearch } from "@tabler/icons-react";
import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { Suspense, lazy, memo, useDeferredValue, useRef, useState } from "react";
import { type Project, errorMessage } from "../api/client";
import { me, projects, useLifecycleAction } from "../api/queries";
import { type SortOrder, filterAndSort } from "../logic/projectList";
import { hasRole, projectSlug } from "../logic/role";
import { canStart, canStop } from "../logic/status";
import { formatDateTime, timeAgo } from "../logic/time";
import { Status } from "./Status";

const FirstRun = lazy(() => import("./FirstRun"));
const CreateProject = lazy(() => import("./CreateProject"));

export function Projects() {
  const found = useQuery(projects);
  const [query, setQuery] = useState("");
  const [order, setOrder] = useLocalStorage<SortOrder>({ key: "fsa.order", defaultValue: "changed" });
  const [creating, setCreating] = useState(false);
  const search = useRef<HTMLInputElement>(null);
  const typed = useDeferredValue(query);
  useHotkeys([
    ["/", () => search.current?.focus()],
    ["C", () => setCreating(true)],
  ]);
  const currentUser = useQuery(me).data;
  const all = found.data ?? [];
  // An owner without projects and without a password is new. The setup steps then stay until the page is left.
  const newOwner = useRef(false);
  newOwner.current ||= found.data?.length === 0 && currentUser?.role === "owner" && !currentUser.hasPassword;
  const showFirstRun = newOwner.current && all.length === 0;
  const shown = filterAndSort(all, typed, order);

  return (
    <div className="column">
      <Group mb="md" gap="xs" wrap="wrap">
        <Title order={1}>Projects</Title>
        <Text c="dimmed" size="sm">
          {found.data ? all.length : ""}
        </Text>
        <span className="grow" />
        <TextInput
          ref={search}
          aria-label="Search projects"
          placeholder="Search  /"
          size="xs"
          w={180}
          leftSection={<IconSearch size={14} />}
          value={query}
          onChange={(event) => setQuery(event.currentTarget.value)}
        />
        <Select
          aria-label="Sort by"
          size="xs"
          w={140}
          allowDeselect={false}
          data={[
            { value: "changed", label: "Last updated" },
            { value: "name", label: "Name" },
            { value: "status", label: "Status" },
          ]}
          value={order}
          onChange={(value) => value && setOrder(value as SortOrder)}
        />
        <Button leftSection={<IconPlus size={15} />} onClick={() => setCreating(true)}>
          New project
        </Button>
      </Group>
      {found.isPending && (
        <div className="panel" aria-busy="true" aria-label="Loading">
          {[1, 2, 3].map((row) => (
            <div className="row" key={row}>
              <Skeleton h={10} w="60%" />
            </div>
          ))}
        </div>
      )}
      {found.isError && !found.data && (
        <div className="panel empty" role="alert">
          <Text c="red">{errorMessage(found.error)}</Text>
          <Button variant="default" onClick={() => void found.refetch()}>
            Retry
          </Button>
        </div>
      )}
      {showFirstRun && (
        <Suspense>
          <FirstRun create={() => setCreating(true)} />
        </Suspense>
      )}
      {found.data && all.length === 0 && !showFirstRun && (
        <div className="panel empty" style={{ padding: "64px 16px" }}>
          <Title order={2} c="var(--mantine-color-text)">
            Create your first project
          </Title>
          <Text maw={420}>
            A project is a Linux sandbox with a terminal for Claude Code, its own PostgreSQL database, and preview URLs for
            the servers that run in it.
          </Text>
          <Button size="sm" leftSection={<IconPlus size={16} />} onClick={() => setCreating(true)}>
            New project
          </Button>
        </div>
      )}
      {all.length > 0 && (
        <ul className="panel rows" aria-label="Projects">
          {shown.map((project) => (
            <Row key={project.id} project={project} slug={projectSlug(project, all)} />
          ))}
          {shown.length === 0 && (
            <li className="empty">
              <span>No projects match “{typed}”.</span>
            </li>
          )}
        </ul>
      )}
      <Suspense>{creating && <CreateProject close={() => setCreating(false)} />}</Suspense>
    </div>
  );
}

const Row = memo(function Row({ project, slug }: { project: Project; slug: string }) {
  const lifecycle = useLifecycleAction();
  const phase = project.sandbox?.status;
  const ports = project.sandbox?.ports.filter((port) => port.port !== 7681) ?? [];
  return (
    <li className="row" data-project={project.name}>
      <div style={{ minWidth: 0 }}>
        <Link className="name clip" to="/p/$project" params={{ project: slug }} preload={false}>
          {project.name}
          {project.role !== "owner" && <span style={{ opacity: 0.65, fontWeight: 400 }}> · shared by {project.ownerLogin}</span>}
        </Link>
        {project.description && (
          <Text size="xs" c="dimmed" className="clip">
            {project.description}
          </Text>
        )}
      </div>
      <Status phase={phase} />
      <Text size="sm" c="dimmed" className="clip wide">
        {project.image ?? project.template ?? "web"} · {project.size}
      </Text>
      <div className="clip wide">
        {ports.map((port) => (
          <a key={port.port} href={port.url} target="_blank" rel="noreferrer" style={{ color: "inherit", marginRight: 8 }}>
            :{port.port}
          </a>
        ))}
      </div>
      <Tooltip label={formatDateTime(project.updatedAt)}>
        <Text size="xs" c="dimmed" className="wide" style={{ whiteSpace: "nowrap" }}>
          {timeAgo(project.updatedAt)}
        </Text>
      </Tooltip>
      <Group gap={2} justify="flex-end" wrap="nowrap">
        {canStart(phase) && hasRole(project.role, "editor") && (
          <ActionIcon
            aria-label={`Start ${project.name}`}
            onClick={() => lifecycle.mutate({ id: project.id, action: phase === undefined ? "recreate" : "start" })}
          >
            <IconPlayerPlay size={16} />
          </ActionIcon>
        )}
        {canStop(phase) && hasRole(project.role, "editor") && (
          <ActionIcon aria-label={`Stop ${project.name}`} onClick={() => lifecycle.mutate({ id: project.id, action: "stop" })}>
            <IconPlayerStop size={16} />
          </ActionIcon>
        )}
      </Group>
    </li>
  );
});
