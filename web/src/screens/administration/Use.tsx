// What each sandbox that runs uses of processor and memory, of all users, as small charts.
import { Alert, Table, Text, Title } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useEffect, useState } from "react";
import { type Schemas, sentence } from "../../api/client";
import { systemUse } from "../../api/queries";
import { type Sample, area, points, shares, started } from "../../logic/samples";
import { bytes } from "../../logic/time";

/** Samples in a chart: three minutes. */
const most = 60;
type SandboxUse = Schemas["SandboxUse"];

export function Use() {
  const found = useQuery(systemUse);
  const [samples, setSamples] = useState<Record<string, Sample[]>>({});
  useEffect(() => {
    if (!found.data) return;
    const at = found.dataUpdatedAt;
    setSamples((before) =>
      Object.fromEntries(
        found.data.items.map(({ projectId, usage }) => {
          const known = before[projectId] ?? [];
          if (!usage) return [projectId, known];
          return [projectId, [...known, { at, cpu: usage.cpuMicroseconds, memory: usage.memoryBytes }].slice(-most)];
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
          {sentence(found.error)}
        </Alert>
      )}
      {found.data && items.length === 0 && (
        <Text size="sm" c="dimmed">
          None runs.
        </Text>
      )}
      {items.length > 0 && (
        <div className="panel scroll" tabIndex={0}>
          <Table aria-label="Running sandboxes">
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
              {items.map((item) => (
                <Row key={item.projectId} item={item} samples={samples[item.projectId] ?? []} />
              ))}
            </Table.Tbody>
          </Table>
        </div>
      )}
      {(found.data?.leftOut ?? 0) > 0 && (
        <Text size="xs" c="dimmed" mt="xs">
          {found.data?.leftOut} more run that are not shown here; /metrics has figures of the whole.
        </Text>
      )}
    </section>
  );
}

function Row({ item, samples }: { item: SandboxUse; samples: Sample[] }) {
  const cpu = started(samples.length === 0 ? [] : [0, ...shares(samples)].slice(samples.length > 1 ? 1 : 0), most);
  const memory = started(samples.map((sample) => sample.memory), most);
  const now = item.usage;
  const percent = Math.round((cpu.at(-1) ?? 0) * 100);
  return (
    <Table.Tr data-use={item.project}>
      <Table.Td>
        {item.project}
        <Text size="xs" c="dimmed">
          {item.ownerLogin}
        </Text>
      </Table.Td>
      <Table.Td>
        <Chart values={cpu} top={Math.max(0.1, ...cpu)} label={samples.length < 2 ? "measuring" : `${percent} %`} />
      </Table.Td>
      <Table.Td>
        <Chart values={memory} top={2 * Math.max(1, ...memory)} label={now ? bytes(now.memoryBytes) : "no answer"} of={now?.memoryLimitBytes ? bytes(now.memoryLimitBytes) : undefined} />
      </Table.Td>
      <Table.Td ta="right">{now?.pids}</Table.Td>
      <Table.Td ta="right">{now?.diskBytes == null ? "" : bytes(now.diskBytes)}</Table.Td>
    </Table.Tr>
  );
}

const width = 140;
const height = 28;

function Chart({ values, top, label, of }: { values: number[]; top: number; label: string; of?: string | undefined }) {
  return (
    <span style={{ display: "flex", alignItems: "center", gap: 8 }}>
      <svg className="chart" viewBox={`0 0 ${width} ${height}`} role="img" aria-label={label}>
        <rect width={width} height={height} rx="3" fill="var(--hover)" />
        <polygon points={area(values, top, width, height, most)} fill="var(--mantine-color-teal-6)" opacity="0.22" />
        <polyline points={points(values, top, width, height, most)} fill="none" stroke="var(--mantine-color-teal-6)" strokeWidth="1.5" />
      </svg>
      <Text size="xs" miw={64} style={{ whiteSpace: "nowrap", fontVariantNumeric: "tabular-nums" }}>
        {label}
        {of && (
          <Text span size="xs" c="dimmed">
            {" "}
            of {of}
          </Text>
        )}
      </Text>
    </span>
  );
}
