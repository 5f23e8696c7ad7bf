// System health, for owners: readiness, health checks, and the usage of all sandboxes.
import { ActionIcon, Alert, Group, Table, Text, Title, Tooltip } from "@mantine/core";
import { IconAlertTriangle, IconCheck, IconExclamationMark, IconRefresh } from "@tabler/icons-react";
import { useQuery } from "@tanstack/react-query";
import { errorMessage } from "../../api/client";
import { checks, readiness } from "../../api/queries";
import { Usage } from "./Usage";

export function System() {
  const ready = useQuery(readiness);
  return (
    <>
      {ready.isError && (
        <Alert color="red" role="alert">
          {errorMessage(ready.error)}
        </Alert>
      )}
      {ready.data && (
        <section className="section">
          <Title order={2} mb="xs">
            {ready.data.ready ? "Server is ready" : "Server is not ready"}
          </Title>
          <div className="panel scroll" tabIndex={0}>
            <Table>
              <Table.Tbody>
                {Object.entries(ready.data.parts).map(([part, status]) => (
                  <Table.Tr key={part}>
                    <Table.Td w={200}>{part}</Table.Td>
                    <Table.Td c={status === "ok" ? undefined : "red"}>{status}</Table.Td>
                  </Table.Tr>
                ))}
              </Table.Tbody>
            </Table>
          </div>
        </section>
      )}
      <Usage />
      <section className="section">
        <Checks />
      </section>
    </>
  );
}

const icons = {
  good: <IconCheck size={16} color="var(--mantine-color-teal-6)" aria-label="Passed" />,
  warning: <IconExclamationMark size={16} color="var(--mantine-color-orange-8)" aria-label="Warning" />,
  bad: <IconAlertTriangle size={16} color="var(--mantine-color-red-6)" aria-label="Failed" />,
};

/** The results of `fsa doctor` for this server. */
export function Checks({ all = true }: { all?: boolean }) {
  const found = useQuery(checks);
  const items = (found.data?.items ?? []).filter((check) => all || check.state !== "good");
  return (
    <>
      {all && (
        <Group mb="xs" gap="xs">
          <Title order={2}>Health checks</Title>
          <span className="grow" />
          <Tooltip label="Refresh">
            <ActionIcon aria-label="Refresh" loading={found.isFetching} onClick={() => void found.refetch()}>
              <IconRefresh size={16} />
            </ActionIcon>
          </Tooltip>
        </Group>
      )}
      {found.isError && (
        <Alert color="red" role="alert" py="xs">
          {errorMessage(found.error)}
        </Alert>
      )}
      {found.isPending && (
        <Text size="sm" c="dimmed">
          Checking…
        </Text>
      )}
      {found.data && items.length === 0 && <Text size="sm">All checks passed.</Text>}
      {items.length > 0 && (
        <div className="panel scroll" tabIndex={0}>
          <Table aria-label="Checks">
            <Table.Tbody>
              {items.map((check, index) => (
                <Table.Tr key={`${check.name} ${index}`} data-check={check.name} data-state={check.state}>
                  <Table.Td w={28} pr={0}>
                    {icons[check.state]}
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
