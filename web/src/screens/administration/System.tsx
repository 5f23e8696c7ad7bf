// For owners: whether the server can do its work, what its doctor finds, and what all sandboxes use.
import { ActionIcon, Alert, Group, Table, Text, Title, Tooltip } from "@mantine/core";
import { IconAlertTriangle, IconCheck, IconExclamationMark, IconRefresh } from "@tabler/icons-react";
import { useQuery } from "@tanstack/react-query";
import { sentence } from "../../api/client";
import { checks, readiness } from "../../api/queries";
import { Use } from "./Use";

export function System() {
  const ready = useQuery(readiness);
  return (
    <>
      {ready.isError && (
        <Alert color="red" role="alert">
          {sentence(ready.error)}
        </Alert>
      )}
      {ready.data && (
        <section className="section">
          <Title order={2} mb="xs">
            {ready.data.ready ? "The server is ready" : "The server is not ready"}
          </Title>
          <div className="panel scroll" tabIndex={0}>
            <Table>
              <Table.Tbody>
                {Object.entries(ready.data.parts).map(([part, says]) => (
                  <Table.Tr key={part}>
                    <Table.Td w={200}>{part}</Table.Td>
                    <Table.Td c={says === "ok" ? undefined : "red"}>{says}</Table.Td>
                  </Table.Tr>
                ))}
              </Table.Tbody>
            </Table>
          </div>
        </section>
      )}
      <Use />
      <section className="section">
        <Checks />
      </section>
    </>
  );
}

const marks = {
  good: <IconCheck size={16} color="var(--mantine-color-teal-6)" aria-label="good" />,
  warning: <IconExclamationMark size={16} color="var(--mantine-color-orange-8)" aria-label="warning" />,
  bad: <IconAlertTriangle size={16} color="var(--mantine-color-red-6)" aria-label="bad" />,
};

/** What `fsa doctor` says of this server. */
export function Checks({ all = true }: { all?: boolean }) {
  const found = useQuery(checks);
  const items = (found.data?.items ?? []).filter((check) => all || check.state !== "good");
  return (
    <>
      {all && (
        <Group mb="xs" gap="xs">
          <Title order={2}>What the doctor finds</Title>
          <span className="grow" />
          <Tooltip label="Look again">
            <ActionIcon aria-label="Look again" loading={found.isFetching} onClick={() => void found.refetch()}>
              <IconRefresh size={16} />
            </ActionIcon>
          </Tooltip>
        </Group>
      )}
      {found.isError && (
        <Alert color="red" role="alert" py="xs">
          {sentence(found.error)}
        </Alert>
      )}
      {found.isPending && (
        <Text size="sm" c="dimmed">
          Looking …
        </Text>
      )}
      {found.data && items.length === 0 && <Text size="sm">Everything that projects need is here.</Text>}
      {items.length > 0 && (
        <div className="panel scroll" tabIndex={0}>
          <Table aria-label="Checks">
            <Table.Tbody>
              {items.map((check, index) => (
                <Table.Tr key={`${check.name} ${index}`} data-check={check.name} data-state={check.state}>
                  <Table.Td w={28} pr={0}>
                    {marks[check.state]}
                  </Table.Td>
                  <Table.Td className="check">
                    {check.name}
                  </Table.Td>
                  <Table.Td style={{ overflowWrap: "anywhere" }}>
                    {check.message}
                  </Table.Td>
                </Table.Tr>
              ))}
            </Table.Tbody>
          </Table>
        </div>
      )}
    </>
  );
}
