// What each running sandbox uses of processor and memory, as small charts.
import { Table, Text, Title } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useEffect, useRef, useState } from "react";
import type { Project } from "../api/client";
import { projects, usage } from "../api/queries";
import { type Sample, points, shares } from "../logic/samples";
import { bytes } from "../logic/time";

const every = 3_000;
/** Samples in a chart: three minutes. */
const most = 60;
/** Sandboxes that are looked at; each one is a request. */
const looked = 30;

export function Use() {
  const all = useQuery(projects).data ?? [];
  const running = all.filter((project) => project.sandbox?.status === "RUNNING").slice(0, looked);
  return (
    <section className="section" style={{ marginTop: 24 }}>
      <Title order={2} mb="xs">
        Your running sandboxes
      </Title>
      {running.length === 0 ? (
        <Text size="sm" c="dimmed">
          None runs.
        </Text>
      ) : (
        <div className="panel scroll" tabIndex={0}>
          <Table>
            <Table.Thead>
              <Table.Tr>
                <Table.Th>Project</Table.Th>
                <Table.Th>Processor</Table.Th>
                <Table.Th>Memory</Table.Th>
                <Table.Th ta="right">Processes</Table.Th>
                <Table.Th ta="right">Disk</Table.Th>
              </Table.Tr>
            </Table.Thead>
            <Table.Tbody>
              {running.map((project) => (
                <Row key={project.id} project={project} />
              ))}
            </Table.Tbody>
          </Table>
        </div>
      )}
    </section>
  );
}

function Row({ project }: { project: Project }) {
  const found = useQuery({ ...usage(project.id), refetchInterval: every });
  const samples = useRef<Sample[]>([]);
  const [, draw] = useState(0);
  useEffect(() => {
    if (!found.data) return;
    samples.current = [...samples.current, { at: found.dataUpdatedAt, cpu: found.data.cpuMicroseconds, memory: found.data.memoryBytes }].slice(-most);
    draw((round) => round + 1);
  }, [found.data, found.dataUpdatedAt]);
  const cpu = shares(samples.current);
  const memory = samples.current.map((sample) => sample.memory);
  const now = found.data;
  return (
    <Table.Tr>
      <Table.Td>{project.name}</Table.Td>
      <Table.Td>
        <Chart values={cpu} top={Math.max(0.1, ...cpu)} label={`${Math.round((cpu.at(-1) ?? 0) * 100)} %`} />
      </Table.Td>
      <Table.Td>
        <Chart values={memory} top={now?.memoryLimitBytes || Math.max(1, ...memory)} label={now ? bytes(now.memoryBytes) : ""} />
      </Table.Td>
      <Table.Td ta="right">{now?.pids}</Table.Td>
      <Table.Td ta="right">{now?.diskBytes == null ? "" : bytes(now.diskBytes)}</Table.Td>
    </Table.Tr>
  );
}

const width = 120;
const height = 28;

function Chart({ values, top, label }: { values: number[]; top: number; label: string }) {
  return (
    <span style={{ display: "flex", alignItems: "center", gap: 8 }}>
      <svg className="chart" viewBox={`0 0 ${width} ${height}`} role="img" aria-label={label}>
        <polyline points={points(values, top, width, height, most)} fill="none" stroke="var(--mantine-color-teal-6)" strokeWidth="1.5" />
      </svg>
      <Text size="xs" style={{ whiteSpace: "nowrap" }}>
        {label}
      </Text>
    </span>
  );
}
