// Files view: a tree whose folders load when they are expanded, and the editor of the open file.
import { ActionIcon, Button, FileButton, Group, Menu, Modal, Text, TextInput, Tooltip } from "@mantine/core";
import { useSessionStorage } from "@mantine/hooks";
import { IconChevronDown, IconChevronRight, IconDots, IconFile, IconFilePlus, IconFolder, IconFolderPlus, IconRefresh, IconUpload } from "@tabler/icons-react";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { type FormEvent, Suspense, lazy, useRef, useState, useSyncExternalStore } from "react";
import { type FileEntry, type ProjectInBranch, api, data, errorMessage, readApiError, send } from "../../api/client";
import { directory, filesUrl, me, notifyError } from "../../api/queries";
import { branchKey } from "../../logic/branch";
import { joinPath, movedPath, parentPath } from "../../logic/path";
import { hasRole } from "../../logic/role";
import { useConfirm } from "../../shell/Confirm";
import { type OpenFiles, openFiles } from "./openFiles";
import { upload } from "./upload";

const Editor = lazy(() => import("./Editor"));
const transferTimeout = 3_600_000;

/** An empty archive, which makes its folder: two blocks of zeros. */
const emptyTar = new Uint8Array(1024);

type Dialog = { kind: "new" | "folder" | "rename" | "delete"; path: string };

export default function Files({ project }: { project: ProjectInBranch }) {
  const user = useQuery(me).data?.id;
  return user === undefined ? null : <UserFiles project={project} files={openFiles(project.reference, user)} />;
}

function UserFiles({ project, files }: { project: ProjectInBranch; files: OpenFiles }) {
  const queries = useQueryClient();
  const id = project.reference;
  // Kept while other views are shown, and over a reload of this tab.
  const [{ open, expanded }, setTree] = useSessionStorage<{ open?: string; expanded: string[] }>({
    key: `fsa.files.${id}`,
    defaultValue: { expanded: [] },
    getInitialValueInEffect: false,
  });
  const [dialog, setDialog] = useState<Dialog>();
  const [confirmDialog, ask] = useConfirm();
  useSyncExternalStore(files.subscribe, files.snapshot);
  const unsaved = files.dirtyPaths();
  const canEdit = hasRole(project.role, "editor");
  const refresh = () => queries.invalidateQueries({ queryKey: ["files", ...branchKey(id)] });
  const choose = (path: string | undefined) => setTree((tree) => ({ ...tree, open: path }));
  const toggle = (path: string) =>
    setTree((tree) => ({ ...tree, expanded: tree.expanded.includes(path) ? tree.expanded.filter((one) => one !== path) : [...tree.expanded, path] }));
  const uploadTo = async (chosen: File[], folder: string) => {
    await upload(id, chosen, folder, ask);
    await refresh();
  };
  const closeDialog = async (kind: Dialog["kind"], path: string, to: string) => {
    setDialog(undefined);
    if (kind === "rename") {
      files.move(path, to);
      setTree((tree) => ({ open: tree.open && movedPath(tree.open, path, to), expanded: tree.expanded.map((one) => movedPath(one, path, to)) }));
    } else if (kind === "delete") {
      files.remove(path);
      if (open === path || open?.startsWith(`${path}/`)) choose(undefined);
    } else if (kind === "new") {
      choose(to);
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
            <Tooltip label="New folder">
              <ActionIcon aria-label="New folder" onClick={() => setDialog({ kind: "folder", path: "." })}>
                <IconFolderPlus size={16} />
              </ActionIcon>
            </Tooltip>
            <FileButton multiple onChange={(chosen) => void uploadTo(chosen, ".")}>
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
        {unsaved.length > 0 && (
          <Menu position="bottom-end">
            <Menu.Target>
              <Button variant="default" size="compact-xs">
                {unsaved.length === 1 ? "1 unsaved file" : `${unsaved.length} unsaved files`}
              </Button>
            </Menu.Target>
            <Menu.Dropdown>
              {unsaved.map((path) => (
                <Menu.Item key={path} onClick={() => choose(path)}>
                  {path}
                </Menu.Item>
              ))}
            </Menu.Dropdown>
          </Menu>
        )}
        <Button variant="default" size="compact-xs" onClick={() => void download(".", true)}>
          Download all
        </Button>
      </div>
      <div
        className="split files"
        onDragOver={(event) => event.preventDefault()}
        onDrop={(event) => {
          event.preventDefault();
          if (canEdit) void uploadTo([...event.dataTransfer.files], ".");
        }}
      >
        <nav className="tree" aria-label="Files">
          <Folder
            id={id}
            canEdit={canEdit}
            path="."
            depth={0}
            open={open}
            expanded={expanded}
            unsaved={unsaved}
            choose={choose}
            toggle={toggle}
            dialog={setDialog}
            download={download}
            upload={uploadTo}
          />
        </nav>
        <div className="editor">
          {open === undefined ? (
            <div className="empty">
              <Text size="sm">Select a file to open it.</Text>
            </div>
          ) : (
            <Suspense>
              <Editor
                key={open}
                files={files}
                path={open}
                readOnly={!canEdit}
                ask={ask}
                onSaved={() => void refresh()}
                onClose={() => {
                  files.remove(open);
                  choose(undefined);
                }}
              />
            </Suspense>
          )}
        </div>
      </div>
      {confirmDialog}
      {dialog && (
        <FileDialog
          dialog={dialog}
          id={id}
          unsaved={unsaved.some((one) => one === dialog.path || one.startsWith(`${dialog.path}/`))}
          close={() => setDialog(undefined)}
          openExisting={(path) => {
            setDialog(undefined);
            choose(path);
          }}
          done={(to) => closeDialog(dialog.kind, dialog.path, to)}
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
  expanded: string[];
  unsaved: string[];
  choose: (path: string) => void;
  toggle: (path: string) => void;
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
  const { path, depth, choose, toggle, dialog, download, upload, canEdit } = props;
  const picker = useRef<HTMLInputElement>(null);
  const expanded = props.expanded.includes(path);
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
          onClick={() => (folder ? toggle(path) : choose(path))}
        >
          {folder ? expanded ? <IconChevronDown size={13} /> : <IconChevronRight size={13} /> : <span style={{ width: 13 }} />}
          {folder ? <IconFolder size={14} /> : <IconFile size={14} />}
          <span className="clip">{entry.name}</span>
        </button>
        {props.unsaved.includes(path) && (
          <span role="img" aria-label={`${entry.name} is not saved`}>
            •
          </span>
        )}
        <Menu position="bottom-end" width={180}>
          <Menu.Target>
            <ActionIcon size="xs" mr={4} aria-label={`Actions for ${entry.name}`}>
              <IconDots size={13} />
            </ActionIcon>
          </Menu.Target>
          <Menu.Dropdown>
            {folder && canEdit && <Menu.Item onClick={() => dialog({ kind: "new", path })}>New file</Menu.Item>}
            {folder && canEdit && <Menu.Item onClick={() => dialog({ kind: "folder", path })}>New folder</Menu.Item>}
            {folder && canEdit && <Menu.Item onClick={() => picker.current?.click()}>Upload</Menu.Item>}
            {canEdit && <Menu.Item onClick={() => dialog({ kind: "rename", path })}>Rename or move</Menu.Item>}
            <Menu.Item onClick={() => void download(path, folder)}>{folder ? "Download as .tar" : "Download"}</Menu.Item>
            {canEdit && (
              <Menu.Item c="var(--mantine-color-error)" onClick={() => dialog({ kind: "delete", path })}>
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

const dialogTexts = {
  new: { title: "New file", action: "Create" },
  folder: { title: "New folder", action: "Create" },
  rename: { title: "Rename or move", action: "Rename" },
  delete: { title: "Delete", action: "Delete" },
};

interface FileDialogProps {
  dialog: Dialog;
  id: string;
  unsaved: boolean;
  close: () => void;
  openExisting: (path: string) => void;
  done: (path: string) => Promise<void>;
}

function FileDialog({ dialog, id, unsaved, close, openExisting, done }: FileDialogProps) {
  const { kind, path } = dialog;
  const [to, setTo] = useState(kind === "rename" ? path : path === "." ? "" : `${path}/`);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState("");
  const [exists, setExists] = useState(false);
  const { title, action } = dialogTexts[kind];
  const submit = async (event: FormEvent) => {
    event.preventDefault();
    setBusy(true);
    try {
      if (kind === "rename") {
        await data(api.POST("/api/projects/{project}/files/move", { params: { path: { project: id } }, body: { from: path, to } }));
      } else if (kind === "delete") {
        const response = await send(filesUrl(id, path, "&recursive=true"), { method: "DELETE" });
        if (!response.ok) throw await readApiError(response);
      } else {
        const folder = kind === "folder";
        const headers = { "if-none-match": "*", ...(folder ? { "content-type": "application/x-tar" } : {}) };
        const response = await send(filesUrl(id, to), { method: "PUT", body: folder ? emptyTar : "", headers });
        setExists(response.status === 412);
        if (response.status === 412) throw new Error(`${to} exists already.`);
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
            {unsaved && " It has unsaved changes, which are discarded as well."}
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
          {exists && kind === "new" && (
            <Button variant="default" onClick={() => openExisting(to)}>
              Open the existing file
            </Button>
          )}
          <Button type="submit" loading={busy} color={kind === "delete" ? "red" : undefined} disabled={kind !== "delete" && (to === "" || to.endsWith("/"))}>
            {action}
          </Button>
        </Group>
      </form>
    </Modal>
  );
}
