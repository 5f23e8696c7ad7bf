// CPU and memory usage of all running sandboxes, as small charts.
import { Alert, Table, Text, Title } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useEffect, useState } from "react";
import { type Schemas, errorMessage } from "../../api/client";
import { systemUsage } from "../../api/queries";
import { type Sample, areaPoints, cpuUsage, padStart, polylinePoints } from "../../logic/chart";
import { formatBytes } from "../../logic/time";

/** Samples in a chart: three minutes. */
const maxSamples = 60;
type SandboxUsage = Schemas["SandboxUsage"];

export function Usage() {
  const found = useQuery(systemUsage);
  const [samples, setSamples] = useState<Record<string, Sample[]>>({});
  useEffect(() => {
    if (!found.data) return;
    const at = found.dataUpdatedAt;
    setSamples((before) =>
      Object.fromEntries(
        found.data.items.map(({ projectId, usage }) => {
          const samples = before[projectId] ?? [];
          if (!usage) return [projectId, samples];
          return [projectId, [...samples, { at, cpu: usage.cpuMicroseconds, memory: usage.memoryBytes }].slice(-maxSamples)];
        }),
      ),
    );
  }, [found.data, found.dataUpdatedAt]);
  const items = found.data?.items ?? [];
  return (
    <section className="section">
      <Title order={2} mb="xs">
        Running sandboxes
      </Title>
      {found.isError && !found.data && (
        <Alert color="red" role="alert" py="xs">
          {errorMessage(found.error)}
        </Alert>
      )}
      {found.data && items.length === 0 && (
        <Text size="sm" c="dimmed">
          No sandboxes are running.
        </Text>
      )}
      {items.length > 0 && (
        <div className="panel scroll" tabIndex={0}>
          <Table aria-label="Running sandboxes">
            <Table.Thead>
              <Table.Tr>
                <Table.Th>Project</Table.Th>
                <Table.Th>CPU</Table.Th>
                <Table.Th>Memory</Table.Th>
                <Table.Th ta="right">Processes</Table.Th>
                <Table.Th ta="right">Disk</Table.Th>
              </Table.Tr>
            </Table.Thead>
            <Table.Tbody>
              {items.map((item) => (
                <Row key={item.projectId} item={item} samples={samples[item.projectId] ?? []} />
              ))}
            </Table.Tbody>
          </Table>
        </div>
      )}
      {(found.data?.omitted ?? 0) > 0 && (
        <Text size="xs" c="dimmed" mt="xs">
          {found.data?.omitted} more running sandboxes are not shown. See /metrics for totals.
        </Text>
      )}
    </section>
  );
}

function Row({ item, samples }: { item: SandboxUsage; samples: Sample[] }) {
  const cpu = padStart(samples.length === 0 ? [] : [0, ...cpuUsage(samples)].slice(samples.length > 1 ? 1 : 0), maxSamples);
  const memory = padStart(samples.map((sample) => sample.memory), maxSamples);
  const current = item.usage;
  const percent = Math.round((cpu.at(-1) ?? 0) * 100);
  return (
    <Table.Tr data-usage={item.project}>
      <Table.Td>
        {item.project}
        <Text size="xs" c="dimmed">
          {item.ownerLogin}
        </Text>
      </Table.Td>
      <Table.Td>
        <Chart values={cpu} top={Math.max(0.1, ...cpu)} label={samples.length < 2 ? "Measuring…" : `${percent} %`} />
      </Table.Td>
      <Table.Td>
        <Chart values={memory} top={2 * Math.max(1, ...memory)} label={current ? formatBytes(current.memoryBytes) : "No data"} limit={current?.memoryLimitBytes ? formatBytes(current.memoryLimitBytes) : undefined} />
      </Table.Td>
      <Table.Td ta="right">{current?.pids}</Table.Td>
      <Table.Td ta="right">
        {current?.diskBytes == null ? "" : formatBytes(current.diskBytes)}
        {current?.diskLimitBytes ? ` of ${formatBytes(current.diskLimitBytes)}` : ""}
      </Table.Td>
    </Table.Tr>
  );
}

const width = 140;
const height = 28;

function Chart({ values, top, label, limit }: { values: number[]; top: number; label: string; limit?: string | undefined }) {
  return (
    <span style={{ display: "flex", alignItems: "center", gap: 8 }}>
      <svg className="chart" viewBox={`0 0 ${width} ${height}`} role="img" aria-label={label}>
        <rect width={width} height={height} rx="3" fill="var(--hover)" />
        <polygon points={areaPoints(values, top, width, height, maxSamples)} fill="var(--mantine-color-teal-6)" opacity="0.22" />
        <polyline points={polylinePoints(values, top, width, height, maxSamples)} fill="none" stroke="var(--mantine-color-teal-6)" strokeWidth="1.5" />
      </svg>
      <Text size="xs" miw={64} style={{ whiteSpace: "nowrap", fontVariantNumeric: "tabular-nums" }}>
        {label}
        {limit && (
          <Text span size="xs" c="dimmed">
            {" "}
            of {limit}
          </Text>
        )}
      </Text>
    </span>
  );
}
