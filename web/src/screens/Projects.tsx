// Every project of the caller, one line each, alive.
import { ActionIcon, Button, Group, Select, Skeleton, Text, TextInput, Title, Tooltip } from "@mantine/core";
import { useHotkeys, useLocalStorage } from "@mantine/hooks";
import { IconPlayerPlay, IconPlayerStop, IconPlus, IconSearch } from "@tabler/icons-react";
import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { Suspense, lazy, memo, useDeferredValue, useRef, useState } from "react";
import { type Project, sentence } from "../api/client";
import { me, projects, useWish } from "../api/queries";
import { type Order, arranged } from "../logic/arrange";
import { addressed, may } from "../logic/role";
import { canStart, canStop } from "../logic/status";
import { ago, at } from "../logic/time";
import { Status } from "./Status";

const FirstRun = lazy(() => import("./FirstRun"));
const CreateProject = lazy(() => import("./CreateProject"));

export function Projects() {
  const found = useQuery(projects);
  const [query, setQuery] = useState("");
  const [order, setOrder] = useLocalStorage<Order>({ key: "fsa.order", defaultValue: "changed" });
  const [creating, setCreating] = useState(false);
  const search = useRef<HTMLInputElement>(null);
  const typed = useDeferredValue(query);
  useHotkeys([
    ["/", () => search.current?.focus()],
    ["C", () => setCreating(true)],
  ]);
  const who = useQuery(me).data;
  const all = found.data ?? [];
  // An owner who has neither a project nor a way to sign in again is new here, and stays so until the page is left.
  const fresh = useRef(false);
  fresh.current ||= found.data?.length === 0 && who?.role === "owner" && !who.hasPassword;
  const first = fresh.current && all.length === 0;
  const shown = arranged(all, typed, order);

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
          aria-label="Order"
          size="xs"
          w={140}
          allowDeselect={false}
          data={[
            { value: "changed", label: "Last changed" },
            { value: "name", label: "Name" },
            { value: "status", label: "Status" },
          ]}
          value={order}
          onChange={(value) => value && setOrder(value as Order)}
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
          <Text c="red">{sentence(found.error)}</Text>
          <Button variant="default" onClick={() => void found.refetch()}>
            Try again
          </Button>
        </div>
      )}
      {first && (
        <Suspense>
          <FirstRun create={() => setCreating(true)} />
        </Suspense>
      )}
      {found.data && all.length === 0 && !first && (
        <div className="panel empty" style={{ padding: "64px 16px" }}>
          <Title order={2} c="var(--mantine-color-text)">
            Make your first project
          </Title>
          <Text maw={420}>
            It is a Linux sandbox with a terminal where Claude Code runs, a PostgreSQL database of its own, and an address
            for whatever it serves.
          </Text>
          <Button size="sm" leftSection={<IconPlus size={16} />} onClick={() => setCreating(true)}>
            New project
          </Button>
        </div>
      )}
      {all.length > 0 && (
        <ul className="panel rows" aria-label="Projects">
          {shown.map((project) => (
            <Row key={project.id} project={project} address={addressed(project, all)} />
          ))}
          {shown.length === 0 && (
            <li className="empty">
              <span>No project matches “{typed}”.</span>
            </li>
          )}
        </ul>
      )}
      <Suspense>{creating && <CreateProject close={() => setCreating(false)} />}</Suspense>
    </div>
  );
}

const Row = memo(function Row({ project, address }: { project: Project; address: string }) {
  const wish = useWish();
  const phase = project.sandbox?.status;
  const ports = project.sandbox?.ports.filter((port) => port.port !== 7681) ?? [];
  return (
    <li className="row" data-project={project.name}>
      <div style={{ minWidth: 0 }}>
        <Link className="name clip" to="/p/$project" params={{ project: address }} preload={false}>
          {project.name}
          {project.role !== "owner" && <span style={{ opacity: 0.65, fontWeight: 400 }}> · {project.ownerLogin}’s</span>}
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
      <Tooltip label={at(project.updatedAt)}>
        <Text size="xs" c="dimmed" className="wide" style={{ whiteSpace: "nowrap" }}>
          {ago(project.updatedAt)}
        </Text>
      </Tooltip>
      <Group gap={2} justify="flex-end" wrap="nowrap">
        {canStart(phase) && may(project.role, "editor") && (
          <ActionIcon
            aria-label={`Start ${project.name}`}
            onClick={() => wish.mutate({ id: project.id, wish: phase === undefined ? "remake" : "start" })}
          >
            <IconPlayerPlay size={16} />
          </ActionIcon>
        )}
        {canStop(phase) && may(project.role, "editor") && (
          <ActionIcon aria-label={`Stop ${project.name}`} onClick={() => wish.mutate({ id: project.id, wish: "stop" })}>
            <IconPlayerStop size={16} />
          </ActionIcon>
        )}
      </Group>
    </li>
  );
});
