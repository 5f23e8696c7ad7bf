// Editor of one open file. The file itself, with its text and its state, is in editedFile.ts.
import { Alert, Button, Group, Text } from "@mantine/core";
import { useEffect, useRef } from "react";
import type { Question } from "../../shell/Confirm";
import { EditedFile } from "./editedFile";
import type { OpenFiles } from "./openFiles";

/** Milliseconds between reads of the file on disk while it is shown: file changes have no events. */
const pollInterval = 3_000;

interface Props {
  files: OpenFiles;
  path: string;
  readOnly: boolean;
  ask: (question: Question) => Promise<boolean>;
  onSaved: () => void;
  onClose: () => void;
}

export default function Editor({ files, path, readOnly, ask, onSaved, onClose }: Props) {
  const host = useRef<HTMLDivElement>(null);
  const file = files.open(path, (files, path) => new EditedFile(files, path));
  const hasText = file.content !== undefined;
  const { dirty, message, conflict } = file;
  file.onSaved = onSaved;

  useEffect(() => {
    const refresh = () => {
      if (document.visibilityState === "visible") void file.refresh();
    };
    refresh();
    const timer = setInterval(refresh, pollInterval);
    addEventListener("focus", refresh);
    document.addEventListener("visibilitychange", refresh);
    return () => {
      clearInterval(timer);
      removeEventListener("focus", refresh);
      document.removeEventListener("visibilitychange", refresh);
    };
  }, [file]);
  useEffect(() => (hasText && host.current ? file.mount(host.current, readOnly) : undefined), [file, hasText, readOnly]);

  const discard = async () => {
    const question = { title: "Discard unsaved changes?", text: `${path} goes back to its saved content.`, action: "Discard" };
    if (await ask(question)) await file.discard();
  };
  return (
    <>
      <div className="tools">
        <Text size="sm" className="clip grow" title={path}>
          {path}
          {dirty && <span aria-label="unsaved"> •</span>}
        </Text>
        {hasText && readOnly && (
          <Text size="xs" c="dimmed">
            Read-only
          </Text>
        )}
        {dirty && !readOnly && !conflict && (
          <Button variant="default" size="compact-xs" disabled={file.busy} onClick={() => void discard()}>
            Discard
          </Button>
        )}
        {hasText && !readOnly && (
          <Button variant={dirty ? "filled" : "default"} size="compact-xs" disabled={!dirty} loading={file.busy} onClick={() => void file.save()}>
            Save
          </Button>
        )}
      </div>
      {message && (
        <Alert color={hasText ? "red" : "gray"} role="alert" py="xs" radius={0}>
          {message}
        </Alert>
      )}
      {!file.stored && dirty && (
        <Alert color="yellow" role="alert" py="xs" radius={0}>
          These changes are only in this page until you save them: there is no room for them in the browser's storage, or another tab has other changes
          of this file.
        </Alert>
      )}
      {conflict === "changed" && (
        <Alert color="yellow" role="alert" py="xs" radius={0} title="The file has changed since you opened it">
          <Group gap="xs">
            <Button variant="default" size="compact-xs" onClick={() => void file.discard()}>
              Discard my changes
            </Button>
            <Button color="red" size="compact-xs" onClick={() => void file.save(true)}>
              Overwrite
            </Button>
          </Group>
        </Alert>
      )}
      {conflict === "deleted" && (
        <Alert color="yellow" role="alert" py="xs" radius={0} title="The file was deleted or renamed since you opened it">
          <Group gap="xs">
            <Button variant="default" size="compact-xs" onClick={onClose}>
              {dirty ? "Discard my changes" : "Close"}
            </Button>
            {!readOnly && (
              <Button size="compact-xs" onClick={() => void file.save()}>
                Save it again
              </Button>
            )}
          </Group>
        </Alert>
      )}
      <div className="cm-host" ref={host} style={hasText ? undefined : { display: "none" }} />
    </>
  );
}
