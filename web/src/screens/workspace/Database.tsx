// The project's database: how it is reached, and what is in it at a glance.
import { ActionIcon, Alert, Badge, Button, CopyButton, Group, Table, Text, TextInput, Title, Tooltip } from "@mantine/core";
import { IconCheck, IconCopy, IconEye, IconEyeOff, IconRefresh, IconTerminal2 } from "@tabler/icons-react";
import { useQuery } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { useState } from "react";
import { type Project, api, data, sentence } from "../../api/client";
import { database } from "../../api/queries";
import { may } from "../../logic/role";
import { rows, tablesQuery } from "../../logic/tables";
import { askTerminal } from "./ask";

export default function Database({ project }: { project: Project }) {
  const [reveal, setReveal] = useState(false);
  const navigate = useNavigate();
  const found = useQuery(database(project.id, false));
  const secret = useQuery({ ...database(project.id, true), enabled: reveal });
  const works = may(project.role, "editor");
  const runs = project.sandbox?.status === "RUNNING";
  const tables = useQuery({
    queryKey: ["project", project.id, "tables"],
    enabled: works && runs && found.data?.status === "READY",
    queryFn: async () => {
      const body = { command: ["psql", "-XAtq", "-F", "\t", "-c", tablesQuery], timeoutSeconds: 20 };
      const answer = await data(api.POST("/api/projects/{project}/exec", { params: { path: { project: project.id } }, body }));
      if (answer.exitCode !== 0) throw new Error(answer.stderr.trim() || `psql ended with ${answer.exitCode}.`);
      return rows(answer.stdout);
    },
    retry: false,
  });
  const psql = () => {
    askTerminal("psql", "psql");
    void navigate({ to: "/p/$project", params: { project: project.name }, search: matchMedia("(max-width: 800px)").matches ? { view: "terminal" } : { view: "database" } });
  };
  const url = reveal ? (secret.data?.connectionString ?? "") : "postgresql://••••••••";

  if (found.isError) {
    return (
      <div className="pad">
        <Alert color="gray">{sentence(found.error)}</Alert>
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
        {works && (
          <Button variant="default" leftSection={<IconTerminal2 size={14} />} onClick={psql} disabled={!runs}>
            psql in a terminal
          </Button>
        )}
      </Group>
      {found.data?.status === "LOST" && (
        <Alert color="red" mb="md">
          The database was there and is gone. A new, empty one is made.
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
          error={secret.isError && sentence(secret.error)}
        />
        {works && (
          <>
            <Tooltip label={reveal ? "Hide" : "Reveal"}>
              <ActionIcon size={34} variant="default" aria-label={reveal ? "Hide the connection string" : "Reveal the connection string"} onClick={() => setReveal(!reveal)}>
                {reveal ? <IconEyeOff size={16} /> : <IconEye size={16} />}
              </ActionIcon>
            </Tooltip>
            <CopyButton value={url}>
              {({ copied, copy }) => (
                <Tooltip label={copied ? "Copied" : reveal ? "Copy" : "Reveal it first"}>
                  <ActionIcon size={34} variant="default" aria-label="Copy the connection string" onClick={copy} disabled={!secret.data || !reveal}>
                    {copied ? <IconCheck size={16} /> : <IconCopy size={16} />}
                  </ActionIcon>
                </Tooltip>
              )}
            </CopyButton>
          </>
        )}
      </Group>
      <Text size="xs" c="dimmed">
        {found.data?.name} · {found.data?.provider}. The sandbox has it as DATABASE_URL; for psql and libraries that refuse “?schema=”, POSTGRES_URL is the same without it.
      </Text>
      <Group mt="xl" mb="xs">
        <Title order={2}>Tables</Title>
        <span className="grow" />
        <ActionIcon aria-label="Look again" onClick={() => void tables.refetch()} disabled={!runs || !works}>
          <IconRefresh size={16} />
        </ActionIcon>
      </Group>
      {!works && <Text size="sm">Looking into the database takes an editor of the project.</Text>}
      {works && !runs && <Text size="sm">The tables are shown while the sandbox runs.</Text>}
      {tables.isError && <Alert color="gray">{sentence(tables.error)}</Alert>}
      {tables.data?.length === 0 && <Text size="sm">There are no tables yet.</Text>}
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
