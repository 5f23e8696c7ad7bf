// Database view: connection string, and tables with row counts.
import { ActionIcon, Alert, Badge, Button, CopyButton, Group, Table, Text, TextInput, Title, Tooltip } from "@mantine/core";
import { IconCheck, IconCopy, IconEye, IconEyeOff, IconRefresh, IconTerminal2 } from "@tabler/icons-react";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useNavigate, useParams } from "@tanstack/react-router";
import { useState } from "react";
import { type ProjectInBranch, api, data, errorMessage } from "../../api/client";
import { database, notifyError, terminals } from "../../api/queries";
import { branchKey } from "../../logic/branch";
import { hasRole } from "../../logic/role";
import { parseTables, tablesQuery } from "../../logic/tables";
import { showTerminal } from "./terminalRequests";

export default function Database({ project }: { project: ProjectInBranch }) {
  const [reveal, setReveal] = useState(false);
  const queries = useQueryClient();
  const navigate = useNavigate();
  const { project: slug } = useParams({ from: "/authenticated/p/$project" });
  const found = useQuery(database(project.reference, false));
  const secret = useQuery({ ...database(project.reference, true), enabled: reveal });
  const canEdit = hasRole(project.role, "editor");
  const running = project.sandbox?.status === "RUNNING";
  const tables = useQuery({
    queryKey: ["project", ...branchKey(project.reference), "tables"],
    enabled: canEdit && running && found.data?.status === "READY",
    queryFn: async () => {
      const body = { command: ["psql", "-XAtq", "-F", "\t", "-c", tablesQuery], timeoutSeconds: 20 };
      const result = await data(api.POST("/api/projects/{project}/exec", { params: { path: { project: project.reference } }, body }));
      if (result.exitCode !== 0) throw new Error(result.stderr.trim() || `psql exited with code ${result.exitCode}.`);
      return parseTables(result.stdout);
    },
    retry: false,
  });
  const openPsql = async () => {
    // A session that exists may run psql already, or anything else: nothing is typed into it.
    const sessions = await queries.fetchQuery({ ...terminals(project.reference), staleTime: 0 }).catch(notifyError);
    if (!sessions) return;
    const exists = sessions.items.some((session) => session.name === "psql");
    showTerminal(project.reference, "psql", exists ? undefined : "psql");
    void navigate({ to: "/p/$project", params: { project: slug }, search: matchMedia("(max-width: 800px)").matches ? { view: "terminal" } : { view: "database" } });
  };
  const url = reveal ? (secret.data?.connectionString ?? "") : "postgresql://••••••••";

  if (found.isError) {
    return (
      <div className="pad">
        <Alert color="gray">{errorMessage(found.error)}</Alert>
      </div>
    );
  }
  return (
    <div className="pad">
      <Group mb="md">
        <Title order={2}>Database</Title>
        {found.data && (
          <Badge variant="dot" size="sm" color={found.data.status === "READY" ? "teal" : found.data.status === "LOST" ? "red" : "gray"}>
            {found.data.status.toLowerCase()}
          </Badge>
        )}
        <span className="grow" />
        {canEdit && (
          <Button variant="default" leftSection={<IconTerminal2 size={14} />} onClick={() => void openPsql()} disabled={!running}>
            Open psql
          </Button>
        )}
      </Group>
      {found.data?.status === "LOST" && (
        <Alert color="red" mb="md">
          The database was lost. A new, empty database is being created.
        </Alert>
      )}
      <Group gap="xs" align="flex-end" wrap="nowrap" mb={4}>
        <TextInput
          className="grow"
          label="Connection string"
          readOnly
          value={url}
          styles={{ input: { fontFamily: "var(--mantine-font-family-monospace)" } }}
          onFocus={(event) => event.currentTarget.select()}
          error={secret.isError && errorMessage(secret.error)}
        />
        {canEdit && (
          <>
            <Tooltip label={reveal ? "Hide" : "Reveal"}>
              <ActionIcon size={34} variant="default" aria-label={reveal ? "Hide connection string" : "Reveal connection string"} onClick={() => setReveal(!reveal)}>
                {reveal ? <IconEyeOff size={16} /> : <IconEye size={16} />}
              </ActionIcon>
            </Tooltip>
            <CopyButton value={url}>
              {({ copied, copy }) => (
                <Tooltip label={copied ? "Copied" : reveal ? "Copy" : "Reveal to copy"}>
                  <ActionIcon size={34} variant="default" aria-label="Copy connection string" onClick={copy} disabled={!secret.data || !reveal}>
                    {copied ? <IconCheck size={16} /> : <IconCopy size={16} />}
                  </ActionIcon>
                </Tooltip>
              )}
            </CopyButton>
          </>
        )}
      </Group>
      <Text size="xs" c="dimmed">
        {found.data?.name} · {found.data?.provider}. Set in the sandbox as DATABASE_URL and POSTGRES_URL.
      </Text>
      <Group mt="xl" mb="xs">
        <Title order={2}>Tables</Title>
        <span className="grow" />
        <ActionIcon aria-label="Refresh" onClick={() => void tables.refetch()} disabled={!running || !canEdit}>
          <IconRefresh size={16} />
        </ActionIcon>
      </Group>
      {!canEdit && <Text size="sm">Viewing tables requires the editor role.</Text>}
      {canEdit && !running && <Text size="sm">Tables are shown while the sandbox is running.</Text>}
      {tables.isError && <Alert color="gray">{errorMessage(tables.error)}</Alert>}
      {tables.data?.length === 0 && <Text size="sm">No tables yet.</Text>}
      {tables.data && tables.data.length > 0 && (
        <div className="panel">
          <Table>
            <Table.Thead>
              <Table.Tr>
                <Table.Th>Table</Table.Th>
                <Table.Th ta="right">Rows</Table.Th>
                <Table.Th ta="right">Size</Table.Th>
              </Table.Tr>
            </Table.Thead>
            <Table.Tbody>
              {tables.data.map((table) => (
                <Table.Tr key={table.name}>
                  <Table.Td ff="monospace">{table.name}</Table.Td>
                  <Table.Td ta="right">{table.rows}</Table.Td>
                  <Table.Td ta="right">{table.size}</Table.Td>
                </Table.Tr>
              ))}
            </Table.Tbody>
          </Table>
        </div>
      )}
    </div>
  );
}
