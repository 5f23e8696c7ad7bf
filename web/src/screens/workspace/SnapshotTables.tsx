// Tables of the database that changed after a snapshot, compared on request.
import { Button, Group, Loader, Text } from "@mantine/core";
import { IconDatabase } from "@tabler/icons-react";
import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { type ProjectInBranch, type Schemas, errorMessage } from "../../api/client";
import { snapshotDatabaseDiff } from "../../api/queries";
import { hasRole } from "../../logic/role";
import { type Snapshot, changeLabels, changeLetters, rowsText, tableTitle } from "../../logic/snapshots";

export function SnapshotTables({ project, snapshot }: { project: ProjectInBranch; snapshot: Snapshot }) {
  const [requested, setRequested] = useState(false);
  const found = useQuery({ ...snapshotDatabaseDiff(project.reference, snapshot.id), enabled: requested });
  if (!snapshot.database || !hasRole(project.role, "editor")) return null;
  if (!requested) {
    return (
      <div className="changes">
        <Button variant="default" size="compact-sm" leftSection={<IconDatabase size={14} />} onClick={() => setRequested(true)}>
          Compare database
        </Button>
      </div>
    );
  }
  if (found.isPending) {
    return (
      <Group className="changes" gap="xs" role="status">
        <Loader size="xs" />
        <Text size="xs">Comparing databases…</Text>
      </Group>
    );
  }
  if (found.isError) {
    return (
      <div className="changes">
        <Text size="xs">The databases cannot be compared: {errorMessage(found.error)}</Text>
      </div>
    );
  }
  return <TableList diff={found.data} />;
}

function TableList({ diff }: { diff: Schemas["DatabaseDiff"] }) {
  if (diff.tables.length === 0) {
    return (
      <div className="changes">
        <Text size="xs" c="dimmed">
          No tables have changed since.
        </Text>
      </div>
    );
  }
  return (
    <div className="changes">
      <ul aria-label="Changed tables" tabIndex={0}>
        {diff.tables.map((table) => (
          <li key={tableTitle(table)} data-change={table.change}>
            <abbr title={changeLabels[table.change]}>{changeLetters[table.change]}</abbr>
            <span className="grow" style={{ overflowWrap: "anywhere" }}>
              {tableTitle(table)}
              {table.columns.length > 0 && ` (${table.columns.map((column) => `${{ added: "+", changed: "~", removed: "−" }[column.change]}${column.name}`).join(", ")})`}
            </span>
            <span className="size">{rowsText(table)}</span>
          </li>
        ))}
      </ul>
      {diff.truncated && (
        <Text size="xs" c="dimmed">
          There are more tables than are shown.
        </Text>
      )}
    </div>
  );
}
