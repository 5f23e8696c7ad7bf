// Files that changed after a snapshot, as a list with the kind of each change, and the text of a change on request.
import { Loader, Text, UnstyledButton } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { type ProjectInBranch, type Schemas, errorMessage } from "../../api/client";
import { snapshotDiff, snapshotFileDiff } from "../../api/queries";
import { type Snapshot, changeLabels, changeLetters, notShownLabels, shownPath } from "../../logic/snapshots";
import { formatBytes } from "../../logic/time";
import { SnapshotTables } from "./SnapshotTables";

/** Paths that are shown; the API lists up to 10,000. */
const maxShown = 200;

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
  return (
    <>
      <ChangeList project={project} diff={found.data} />
      <SnapshotTables project={project} snapshot={snapshot} />
    </>
  );
}

export function ChangeList({ project, diff }: { project: ProjectInBranch; diff: Schemas["SnapshotDiff"] }) {
  const [opened, setOpened] = useState<string>();
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
            <abbr title={changeLabels[change.change]}>{changeLetters[change.change]}</abbr>
            {change.kind === "file" && !change.encodedPath ? (
              <UnstyledButton
                className="grow"
                fz="inherit"
                style={{ overflowWrap: "anywhere" }}
                aria-expanded={opened === change.path}
                onClick={() => setOpened(opened === change.path ? undefined : change.path)}
              >
                {shownPath(change.path)}
              </UnstyledButton>
            ) : (
              <span className="grow" style={{ overflowWrap: "anywhere" }}>
                {shownPath(change.path)}
                {change.kind === "directory" && "/"}
              </span>
            )}
            {change.size != null && change.kind === "file" && <span className="size">{formatBytes(change.size)}</span>}
          </li>
        ))}
      </ul>
      {opened && <FileText key={opened} project={project} snapshot={diff.from} path={opened} />}
      {(hidden > 0 || diff.truncated) && (
        <Text size="xs" c="dimmed">
          {diff.truncated ? `More than ${total.toLocaleString()} changes; the first ${shown.length} are shown.` : `${hidden.toLocaleString()} more changes are not shown.`}
        </Text>
      )}
    </div>
  );
}

function FileText({ project, snapshot, path }: { project: ProjectInBranch; snapshot: string; path: string }) {
  const found = useQuery(snapshotFileDiff(project.reference, snapshot, path));
  if (found.isPending) return <Loader size="xs" aria-label="Reading the file" />;
  if (found.isError) return <Text size="xs">{errorMessage(found.error)}</Text>;
  const { text, notShown, truncated } = found.data;
  if (notShown) return <Text size="xs">{notShownLabels[notShown]}</Text>;
  return (
    <>
      <pre className="diff-text" tabIndex={0} aria-label={`Changes of ${shownPath(path)}`}>
        {text || "The content is equal."}
      </pre>
      {truncated && <Text size="xs">The rest of the difference is not shown.</Text>}
    </>
  );
}
