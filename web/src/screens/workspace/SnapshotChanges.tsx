// Files that changed after a snapshot, as a list with the kind of each change.
import { Loader, Text } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { type ProjectInBranch, type Schemas, errorMessage } from "../../api/client";
import { snapshotDiff } from "../../api/queries";
import { type Snapshot, shownPath } from "../../logic/snapshots";
import { formatBytes } from "../../logic/time";

/** Paths that are shown; the API lists up to 10,000. */
const maxShown = 200;
const letters = { added: "A", changed: "M", removed: "D" } as const;
const labels = { added: "Added", changed: "Changed", removed: "Removed" } as const;

export function SnapshotChanges({ project, snapshot }: { project: ProjectInBranch; snapshot: Snapshot }) {
  const found = useQuery(snapshotDiff(project.reference, snapshot.id));
  if (found.isPending) {
    return (
      <div className="changes">
        <Loader size="xs" aria-label="Comparing files" />
      </div>
    );
  }
  if (found.isError) {
    return (
      <div className="changes">
        <Text size="xs">{errorMessage(found.error)}</Text>
      </div>
    );
  }
  return <ChangeList diff={found.data} />;
}

export function ChangeList({ diff }: { diff: Schemas["SnapshotDiff"] }) {
  const total = diff.added + diff.changed + diff.removed;
  const shown = diff.changes.slice(0, maxShown);
  const hidden = total - shown.length;
  if (total === 0) {
    return (
      <div className="changes">
        <Text size="xs" c="dimmed">
          No files have changed since.
        </Text>
      </div>
    );
  }
  return (
    <div className="changes">
      <ul aria-label="Changed files" tabIndex={0}>
        {shown.map((change) => (
          <li key={`${change.change} ${change.encodedPath ?? change.path}`} data-change={change.change}>
            <abbr title={labels[change.change]}>{letters[change.change]}</abbr>
            <span className="grow" style={{ overflowWrap: "anywhere" }}>
              {shownPath(change.path)}
              {change.kind === "directory" && "/"}
            </span>
            {change.size != null && change.kind === "file" && <span className="size">{formatBytes(change.size)}</span>}
          </li>
        ))}
      </ul>
      {(hidden > 0 || diff.truncated) && (
        <Text size="xs" c="dimmed">
          {diff.truncated ? `More than ${total.toLocaleString()} changes; the first ${shown.length} are shown.` : `${hidden.toLocaleString()} more changes are not shown.`}
        </Text>
      )}
    </div>
  );
}
