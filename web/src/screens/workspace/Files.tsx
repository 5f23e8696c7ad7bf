// Files view: a tree whose folders load when they are expanded, and the editor of the open file.
import { ActionIcon, Button, FileButton, Group, Menu, Modal, Text, TextInput, Tooltip } from "@mantine/core";
import { IconChevronDown, IconChevronRight, IconDots, IconFile, IconFilePlus, IconFolder, IconRefresh, IconUpload } from "@tabler/icons-react";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { type FormEvent, Suspense, lazy, useRef, useState } from "react";
import { type FileEntry, type Project, api, data, errorMessage, readApiError, send } from "../../api/client";
import { directory, filesUrl, notifyError } from "../../api/queries";
import { joinPath, parentPath } from "../../logic/path";
import { hasRole } from "../../logic/role";
import { Confirm, type Confirmation } from "../../shell/Confirm";

const Editor = lazy(() => import("./Editor"));
const transferTimeout = 3_600_000;

type Dialog = { kind: "new" | "folder" | "rename" | "delete"; path: string };

export default function Files({ project }: { project: Project }) {
  const queries = useQueryClient();
  const [open, setOpen] = useState<string>();
  const [dirty, setDirty] = useState(false);
  const [dialog, setDialog] = useState<Dialog>();
  const [confirmation, setConfirmation] = useState<Confirmation>();
  const id = project.id;
  const canEdit = hasRole(project.role, "editor");
  const refresh = () => queries.invalidateQueries({ queryKey: ["files", id] });
  const choose = (path: string) => {
    const go = () => {
      setDirty(false);
      setOpen(path);
    };
    if (!dirty || path === open) return go();
    setConfirmation({ title: "Discard unsaved changes?", text: `Your changes to ${open} are not saved.`, action: "Discard", run: go });
  };
  const upload = async (files: File[], folder: string) => {
    try {
      for (const file of files) {
        const response = await send(filesUrl(id, joinPath(folder, file.name)), { method: "PUT", body: file }, transferTimeout);
        if (!response.ok) throw await readApiError(response);
      }
    } catch (error) {
      notifyError(error);
    }
    await refresh();
  };
  const download = async (path: string, archive: boolean) => {
    try {
      const response = await send(filesUrl(id, path), archive ? { headers: { accept: "application/x-tar" } } : {}, transferTimeout);
      if (!response.ok) throw await readApiError(response);
      const url = URL.createObjectURL(await response.blob());
      const name = path === "." ? project.name : path.split("/").pop();
      Object.assign(document.createElement("a"), { href: url, download: archive ? `${name}.tar` : name }).click();
      setTimeout(() => URL.revokeObjectURL(url), 60_000);
    } catch (error) {
      notifyError(error);
    }
  };

  return (
    <>
      <div className="tools">
        {canEdit && (
          <>
            <Tooltip label="New file">
              <ActionIcon aria-label="New file" onClick={() => setDialog({ kind: "new", path: "." })}>
                <IconFilePlus size={16} />
              </ActionIcon>
            </Tooltip>
            <FileButton multiple onChange={(files) => void upload(files, ".")}>
              {(props) => (
                <Tooltip label="Upload to the project folder">
                  <ActionIcon aria-label="Upload" {...props}>
                    <IconUpload size={16} />
                  </ActionIcon>
                </Tooltip>
              )}
            </FileButton>
          </>
        )}
        <Tooltip label="Refresh">
          <ActionIcon aria-label="Refresh" onClick={() => void refresh()}>
            <IconRefresh size={16} />
          </ActionIcon>
        </Tooltip>
        <span className="grow" />
        <Button variant="default" size="compact-xs" onClick={() => void download(".", true)}>
          Download all
        </Button>
      </div>
      <div
        className="split files"
        onDragOver={(event) => event.preventDefault()}
        onDrop={(event) => {
          event.preventDefault();
          if (canEdit) void upload([...event.dataTransfer.files], ".");
        }}
      >
        <nav className="tree" aria-label="Files">
          <Folder id={id} canEdit={canEdit} path="." depth={0} open={open} choose={choose} dialog={setDialog} download={download} upload={upload} />
        </nav>
        <div className="editor">
          {open === undefined ? (
            <div className="empty">
              <Text size="sm">Select a file to open it.</Text>
            </div>
          ) : (
            <Suspense>
              <Editor id={id} path={open} readOnly={!canEdit} key={open} onDirtyChange={setDirty} onSaved={() => void refresh()} />
            </Suspense>
          )}
        </div>
      </div>
      <Confirm confirmation={confirmation} close={() => setConfirmation(undefined)} />
      {dialog && (
        <FileDialog
          dialog={dialog}
          id={id}
          close={() => setDialog(undefined)}
          done={async (path) => {
            setDialog(undefined);
            await refresh();
            if (dialog.kind === "delete" && (open === dialog.path || open?.startsWith(`${dialog.path}/`))) setOpen(undefined);
            if (dialog.kind === "rename" && open === dialog.path) setOpen(path);
            if (dialog.kind === "new") choose(path);
          }}
        />
      )}
    </>
  );
}

interface FolderProps {
  id: string;
  canEdit: boolean;
  path: string;
  depth: number;
  open: string | undefined;
  choose: (path: string) => void;
  dialog: (dialog: Dialog) => void;
  download: (path: string, archive: boolean) => Promise<void>;
  upload: (files: File[], folder: string) => Promise<void>;
}

function Folder(props: FolderProps) {
  const { id, path, depth } = props;
  const found = useQuery(directory(id, path));
  const indent = { paddingLeft: 12 + depth * 14, fontSize: "0.75rem" };
  if (found.isError && !found.data) {
    return (
      <Text c="red" style={indent}>
        {errorMessage(found.error)}
      </Text>
    );
  }
  if (found.data?.length === 0) {
    return (
      <Text c="dimmed" py={4} style={indent}>
        {depth === 0 ? (props.canEdit ? "No files yet. Drop files here to upload them." : "No files yet.") : "Empty folder"}
      </Text>
    );
  }
  return found.data?.map((entry) => <Node key={entry.name} {...props} entry={entry} path={joinPath(path, entry.name)} />);
}

function Node({ entry, ...props }: FolderProps & { entry: FileEntry }) {
  const { path, depth, choose, dialog, download, upload, canEdit } = props;
  const picker = useRef<HTMLInputElement>(null);
  const [expanded, setExpanded] = useState(false);
  const folder = entry.kind === "directory";
  return (
    <>
      <div
        style={{ display: "flex", alignItems: "center" }}
        className="entry"
        onDrop={(event) => {
          // Files that are dropped on a folder are uploaded to it.
          if (!folder || !canEdit) return;
          event.preventDefault();
          event.stopPropagation();
          void upload([...event.dataTransfer.files], path);
        }}
      >
        {folder && (
          <input
            ref={picker}
            type="file"
            multiple
            hidden
            aria-label={`Upload to ${path}`}
            onChange={(event) => {
              void upload([...(event.currentTarget.files ?? [])], path);
              event.currentTarget.value = "";
            }}
          />
        )}
        <button
          type="button"
          className="node clip"
          style={{ paddingLeft: 8 + depth * 14 }}
          aria-expanded={folder ? expanded : undefined}
          aria-current={props.open === path ? "true" : undefined}
          title={entry.target ? `${entry.name} → ${entry.target}` : entry.name}
          onClick={() => (folder ? setExpanded(!expanded) : choose(path))}
        >
          {folder ? expanded ? <IconChevronDown size={13} /> : <IconChevronRight size={13} /> : <span style={{ width: 13 }} />}
          {folder ? <IconFolder size={14} /> : <IconFile size={14} />}
          <span className="clip">{entry.name}</span>
        </button>
        <Menu position="bottom-end" width={180}>
          <Menu.Target>
            <ActionIcon size="xs" mr={4} aria-label={`Actions for ${entry.name}`}>
              <IconDots size={13} />
            </ActionIcon>
          </Menu.Target>
          <Menu.Dropdown>
            {folder && canEdit && <Menu.Item onClick={() => dialog({ kind: "new", path })}>New file</Menu.Item>}
            {folder && canEdit && <Menu.Item onClick={() => picker.current?.click()}>Upload</Menu.Item>}
            {canEdit && <Menu.Item onClick={() => dialog({ kind: "rename", path })}>Rename or move</Menu.Item>}
            <Menu.Item onClick={() => void download(path, folder)}>{folder ? "Download as .tar" : "Download"}</Menu.Item>
            {canEdit && (
              <Menu.Item color="red" onClick={() => dialog({ kind: "delete", path })}>
                Delete
              </Menu.Item>
            )}
          </Menu.Dropdown>
        </Menu>
      </div>
      {folder && expanded && <Folder {...props} depth={depth + 1} />}
    </>
  );
}

function FileDialog({ dialog, id, close, done }: { dialog: Dialog; id: string; close: () => void; done: (path: string) => Promise<void> }) {
  const { kind, path } = dialog;
  const [to, setTo] = useState(kind === "rename" ? path : path === "." ? "" : `${path}/`);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState("");
  const title = kind === "new" ? "New file" : kind === "rename" ? "Rename or move" : "Delete";
  const submit = async (event: FormEvent) => {
    event.preventDefault();
    setBusy(true);
    try {
      if (kind === "rename") {
        await data(api.POST("/api/projects/{project}/files/move", { params: { path: { project: id } }, body: { from: path, to } }));
      } else {
        const url = kind === "delete" ? filesUrl(id, path, "&recursive=true") : filesUrl(id, to);
        const response = await send(url, kind === "delete" ? { method: "DELETE" } : { method: "PUT", body: "", headers: { "if-none-match": "*" } });
        if (!response.ok) throw await readApiError(response);
      }
      await done(to);
    } catch (error) {
      setError(errorMessage(error));
      setBusy(false);
    }
  };
  return (
    <Modal opened onClose={close} title={title}>
      <form onSubmit={(event) => void submit(event)}>
        {kind === "delete" ? (
          <Text size="sm">
            Permanently delete <strong>{path}</strong>? A folder is deleted with everything in it.
          </Text>
        ) : (
          <TextInput data-autofocus label={kind === "rename" ? "New path" : "Path"} value={to} onChange={(event) => setTo(event.currentTarget.value)} description={parentPath(to) === "." ? "In the project folder" : `In ${parentPath(to)}`} />
        )}
        {error && (
          <Text c="red" size="sm" mt="xs" role="alert">
            {error}
          </Text>
        )}
        <Group justify="flex-end" mt="md">
          <Button variant="default" onClick={close}>
            Cancel
          </Button>
          <Button type="submit" loading={busy} color={kind === "delete" ? "red" : undefined} disabled={kind !== "delete" && (to === "" || to.endsWith("/"))}>
            {kind === "delete" ? "Delete" : kind === "rename" ? "Rename" : "Create"}
          </Button>
        </Group>
      </form>
    </Modal>
  );
}
