// The files of a project: a tree that loads as it is opened, and the file that is open.
import { ActionIcon, Button, FileButton, Group, Menu, Modal, Text, TextInput, Tooltip } from "@mantine/core";
import { IconChevronDown, IconChevronRight, IconDots, IconFile, IconFilePlus, IconFolder, IconRefresh, IconUpload } from "@tabler/icons-react";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { type FormEvent, Suspense, lazy, useRef, useState } from "react";
import { type FileEntry, type Project, api, data, refusal, send, sentence } from "../../api/client";
import { complain, filesUrl, listing } from "../../api/queries";
import { joined, parent } from "../../logic/path";
import { may } from "../../logic/role";
import { Confirm, type Question } from "../../shell/Confirm";

const Editor = lazy(() => import("./Editor"));
const patience = 3_600_000;

type Dialog = { kind: "new" | "folder" | "rename" | "delete"; path: string };

export default function Files({ project }: { project: Project }) {
  const queries = useQueryClient();
  const [open, setOpen] = useState<string>();
  const [dirty, setDirty] = useState(false);
  const [dialog, setDialog] = useState<Dialog>();
  const [question, setQuestion] = useState<Question>();
  const id = project.id;
  const works = may(project.role, "editor");
  const fresh = () => queries.invalidateQueries({ queryKey: ["files", id] });
  const choose = (path: string) => {
    const go = () => {
      setDirty(false);
      setOpen(path);
    };
    if (!dirty || path === open) return go();
    setQuestion({ title: "Leave the changes?", text: `The changes of ${open} are not saved.`, act: "Leave them", run: go });
  };
  const upload = async (files: File[], folder: string) => {
    try {
      for (const file of files) {
        const answer = await send(filesUrl(id, joined(folder, file.name)), { method: "PUT", body: file }, patience);
        if (!answer.ok) throw await refusal(answer);
      }
    } catch (error) {
      complain(error);
    }
    await fresh();
  };
  const download = async (path: string, archive: boolean) => {
    try {
      const answer = await send(filesUrl(id, path), archive ? { headers: { accept: "application/x-tar" } } : {}, patience);
      if (!answer.ok) throw await refusal(answer);
      const url = URL.createObjectURL(await answer.blob());
      const name = path === "." ? project.name : path.split("/").pop();
      Object.assign(document.createElement("a"), { href: url, download: archive ? `${name}.tar` : name }).click();
      setTimeout(() => URL.revokeObjectURL(url), 60_000);
    } catch (error) {
      complain(error);
    }
  };

  return (
    <>
      <div className="tools">
        {works && (
          <>
            <Tooltip label="New file">
              <ActionIcon aria-label="New file" onClick={() => setDialog({ kind: "new", path: "." })}>
                <IconFilePlus size={16} />
              </ActionIcon>
            </Tooltip>
            <FileButton multiple onChange={(files) => void upload(files, ".")}>
              {(props) => (
                <Tooltip label="Upload into the project's folder">
                  <ActionIcon aria-label="Upload" {...props}>
                    <IconUpload size={16} />
                  </ActionIcon>
                </Tooltip>
              )}
            </FileButton>
          </>
        )}
        <Tooltip label="Read the folders again">
          <ActionIcon aria-label="Read the folders again" onClick={() => void fresh()}>
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
          if (works) void upload([...event.dataTransfer.files], ".");
        }}
      >
        <nav className="tree" aria-label="Files">
          <Folder id={id} works={works} path="." depth={0} open={open} choose={choose} dialog={setDialog} download={download} upload={upload} />
        </nav>
        <div className="editor">
          {open === undefined ? (
            <div className="empty">
              <Text size="sm">Choose a file to read or change it.</Text>
            </div>
          ) : (
            <Suspense>
              <Editor id={id} path={open} reads={!works} key={open} dirty={setDirty} saved={() => void fresh()} />
            </Suspense>
          )}
        </div>
      </div>
      <Confirm question={question} close={() => setQuestion(undefined)} />
      {dialog && (
        <Ask
          dialog={dialog}
          id={id}
          close={() => setDialog(undefined)}
          done={async (path) => {
            setDialog(undefined);
            await fresh();
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
  /** Whether the caller may change files. */
  works: boolean;
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
  const found = useQuery(listing(id, path));
  const indent = { paddingLeft: 12 + depth * 14, fontSize: "0.75rem" };
  if (found.isError && !found.data) {
    return (
      <Text c="red" style={indent}>
        {sentence(found.error)}
      </Text>
    );
  }
  if (found.data?.length === 0) {
    return (
      <Text c="dimmed" py={4} style={indent}>
        {depth === 0 ? (props.works ? "No files yet. Drop some here." : "No files yet.") : "empty"}
      </Text>
    );
  }
  return found.data?.map((entry) => <Node key={entry.name} {...props} entry={entry} path={joined(path, entry.name)} />);
}

function Node({ entry, ...props }: FolderProps & { entry: FileEntry }) {
  const { path, depth, choose, dialog, download, upload, works } = props;
  const picker = useRef<HTMLInputElement>(null);
  const [unfolded, setUnfolded] = useState(false);
  const folder = entry.kind === "directory";
  return (
    <>
      <div
        style={{ display: "flex", alignItems: "center" }}
        className="entry"
        onDrop={(event) => {
          // What is dropped on a folder goes into it.
          if (!folder || !works) return;
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
            aria-label={`Upload into ${path}`}
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
          aria-expanded={folder ? unfolded : undefined}
          aria-current={props.open === path ? "true" : undefined}
          title={entry.target ? `${entry.name} → ${entry.target}` : entry.name}
          onClick={() => (folder ? setUnfolded(!unfolded) : choose(path))}
        >
          {folder ? unfolded ? <IconChevronDown size={13} /> : <IconChevronRight size={13} /> : <span style={{ width: 13 }} />}
          {folder ? <IconFolder size={14} /> : <IconFile size={14} />}
          <span className="clip">{entry.name}</span>
        </button>
        <Menu position="bottom-end" width={180}>
          <Menu.Target>
            <ActionIcon size="xs" mr={4} aria-label={`More for ${entry.name}`}>
              <IconDots size={13} />
            </ActionIcon>
          </Menu.Target>
          <Menu.Dropdown>
            {folder && works && <Menu.Item onClick={() => dialog({ kind: "new", path })}>New file here</Menu.Item>}
            {folder && works && <Menu.Item onClick={() => picker.current?.click()}>Upload here</Menu.Item>}
            {works && <Menu.Item onClick={() => dialog({ kind: "rename", path })}>Rename or move</Menu.Item>}
            <Menu.Item onClick={() => void download(path, folder)}>{folder ? "Download as archive" : "Download"}</Menu.Item>
            {works && (
              <Menu.Item color="red" onClick={() => dialog({ kind: "delete", path })}>
                Delete
              </Menu.Item>
            )}
          </Menu.Dropdown>
        </Menu>
      </div>
      {folder && unfolded && <Folder {...props} depth={depth + 1} />}
    </>
  );
}

function Ask({ dialog, id, close, done }: { dialog: Dialog; id: string; close: () => void; done: (path: string) => Promise<void> }) {
  const { kind, path } = dialog;
  const [to, setTo] = useState(kind === "rename" ? path : path === "." ? "" : `${path}/`);
  const [busy, setBusy] = useState(false);
  const [said, setSaid] = useState("");
  const title = kind === "new" ? "New file" : kind === "rename" ? "Rename or move" : "Delete";
  const submit = async (event: FormEvent) => {
    event.preventDefault();
    setBusy(true);
    try {
      if (kind === "rename") {
        await data(api.POST("/api/projects/{project}/files/move", { params: { path: { project: id } }, body: { from: path, to } }));
      } else {
        const url = kind === "delete" ? filesUrl(id, path, "&recursive=true") : filesUrl(id, to);
        const answer = await send(url, kind === "delete" ? { method: "DELETE" } : { method: "PUT", body: "", headers: { "if-none-match": "*" } });
        if (!answer.ok) throw await refusal(answer);
      }
      await done(to);
    } catch (error) {
      setSaid(sentence(error));
      setBusy(false);
    }
  };
  return (
    <Modal opened onClose={close} title={title}>
      <form onSubmit={(event) => void submit(event)}>
        {kind === "delete" ? (
          <Text size="sm">
            Delete <strong>{path}</strong> for good? A folder goes with all that is in it.
          </Text>
        ) : (
          <TextInput data-autofocus label={kind === "rename" ? "New path" : "Path"} value={to} onChange={(event) => setTo(event.currentTarget.value)} description={parent(to) === "." ? "In the project's folder" : `In ${parent(to)}`} />
        )}
        {said && (
          <Text c="red" size="sm" mt="xs" role="alert">
            {said}
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
