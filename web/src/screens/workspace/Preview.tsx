// Preview of the sandbox's ports: port selection, address bar, iframe, and the settings of a port.
import { ActionIcon, Button, CopyButton, Menu, Modal, Select, Text, TextInput, Textarea, Tooltip } from "@mantine/core";
import { IconCheck, IconExternalLink, IconLink, IconLock, IconRefresh, IconWorld } from "@tabler/icons-react";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { type FormEvent, useState } from "react";
import { type Port, type ProjectInBranch, type Schemas, api, data } from "../../api/client";
import { notifyError, ports } from "../../api/queries";
import { branchReference, mainBranch } from "../../logic/branch";
import { canEmbed } from "../../logic/embed";
import { previewPath } from "../../logic/previewPath";
import { hasRole } from "../../logic/role";
import { StartSuggestion } from "./StartSuggestion";

const terminalPort = 7681;
/** What applications need, without top-level navigation: a link with target=_top must not replace the workspace. */
const sandbox = [
  "allow-scripts", "allow-same-origin", "allow-forms", "allow-popups", "allow-popups-to-escape-sandbox", "allow-modals", "allow-downloads",
  "allow-pointer-lock", "allow-orientation-lock", "allow-presentation", "allow-storage-access-by-user-activation",
].join(" ");
const icons = { private: IconLock, link: IconLink, public: IconWorld };
const visibilities = { private: "Members only", link: "Anyone with the link", public: "Public" };
/** Host names that the application sees in requests. */
const hostHeaders = (port: Port): Record<Schemas["HostHeader"], { name: string; use: string }> => ({
  public: { name: new URL(port.url).host, use: "The preview's own name" },
  localhost: { name: `localhost:${port.port}`, use: "For an application that answers to no other name" },
});

export default function Preview({ project }: { project: ProjectInBranch }) {
  const queries = useQueryClient();
  const all = useQuery(ports(project.reference)).data?.items ?? project.sandbox?.ports ?? [];
  const available = all.filter((port) => port.port !== terminalPort);
  const [selectedPort, setSelectedPort] = useState<number>();
  const [path, setPath] = useState("/");
  const [typed, setTyped] = useState("/");
  const [reloads, setReloads] = useState(0);
  const [link, setLink] = useState<string>();
  /** The public paths that are being edited, one on each line. */
  const [paths, setPaths] = useState<string>();
  const port: Port | undefined = available.find((one) => one.port === selectedPort) ?? available.find((one) => one.process) ?? available[0];

  if (!port) {
    return (
      <div className="empty">
        <Text c="var(--mantine-color-text)" fw={500}>
          No open ports yet
        </Text>
        <Text maw={380} size="sm">
          Start a server on any port in the terminal, and it appears here automatically. For example: <code>python3 -m http.server 3000</code>
        </Text>
        <StartSuggestion project={project} />
      </div>
    );
  }
  const navigate = (event: FormEvent) => {
    event.preventDefault();
    const next = previewPath(typed);
    setTyped(next);
    setPath(next);
    setReloads(reloads + 1);
  };
  const change = async (body: Schemas["SharePort"]) => {
    try {
      const changed = await data(api.PUT("/api/projects/{project}/ports/{port}", { params: { path: { project: project.reference, port: port.port } }, body }));
      if (changed.link) setLink(changed.link);
      await queries.invalidateQueries({ queryKey: ["project", project.id] });
      // What the application answered may depend on the host name.
      if (body.hostHeader) setReloads((count) => count + 1);
      return true;
    } catch (error) {
      notifyError(error);
      return false;
    }
  };
  const savePaths = async (event: FormEvent) => {
    event.preventDefault();
    const publicPaths = (paths ?? "").split(/\s+/).filter(Boolean);
    if (await change({ publicPaths })) setPaths(undefined);
  };
  const Icon = icons[port.sharing];
  const url = port.url.replace(/\/$/, "") + path;
  return (
    <>
      <form className="tools" onSubmit={navigate}>
        <Select
          aria-label="Port"
          size="xs"
          w={132}
          allowDeselect={false}
          value={String(port.port)}
          onChange={(value) => value && setSelectedPort(Number(value))}
          data={available.map((one) => ({ value: String(one.port), label: one.process ? `${one.port} ${one.process}` : String(one.port) }))}
        />
        <TextInput
          aria-label="Path"
          size="xs"
          className="grow"
          value={typed}
          onChange={(event) => setTyped(event.currentTarget.value)}
          spellCheck={false}
        />
        <Tooltip label="Reload">
          {/* Also what Enter in the address bar presses: a form with several fields needs such a button for that. */}
          <ActionIcon aria-label="Reload" type="submit">
            <IconRefresh size={16} />
          </ActionIcon>
        </Tooltip>
        <Tooltip label="Open in new tab">
          <ActionIcon aria-label="Open in new tab" component="a" href={url} target="_blank" rel="noreferrer">
            <IconExternalLink size={16} />
          </ActionIcon>
        </Tooltip>
        {hasRole(project.role, "admin") && (
          <Menu position="bottom-end" width={280}>
            <Menu.Target>
              <Tooltip label={`Port settings: ${visibilities[port.sharing].toLowerCase()}`}>
                <ActionIcon aria-label="Port settings">
                  <Icon size={16} />
                </ActionIcon>
              </Tooltip>
            </Menu.Target>
            <Menu.Dropdown>
              <Menu.Label>Visibility of port {port.port}</Menu.Label>
              {(Object.keys(visibilities) as (keyof typeof visibilities)[]).map((sharing) => {
                const Icon = icons[sharing];
                return (
                  <Menu.Item key={sharing} leftSection={<Icon size={15} />} disabled={sharing !== "private" && project.branch !== mainBranch} onClick={() => void change({ sharing })} fw={sharing === port.sharing ? 600 : 400}>
                    {sharing === "link" && port.sharing === "link" ? "Create new link (revokes the old one)" : visibilities[sharing]}
                  </Menu.Item>
                );
              })}
              {project.branch !== mainBranch && (
                <Text size="xs" c="dimmed" px={12} py={4}>
                  Only ports of main can be opened to others.
                </Text>
              )}
              <Menu.Item disabled={project.branch !== mainBranch} onClick={() => setPaths((port.publicPaths ?? []).join("\n"))}>
                Public paths…
                <Text size="xs" c="dimmed">
                  {port.publicPaths?.join(", ") ?? "For webhooks and sign-in callbacks"}
                </Text>
              </Menu.Item>
              <Menu.Divider />
              <Menu.Label>Host name that the application sees</Menu.Label>
              {Object.entries(hostHeaders(port)).map(([header, { name, use }]) => {
                const hostHeader = header as Schemas["HostHeader"];
                const selected = hostHeader === (port.hostHeader ?? "public");
                return (
                  <Menu.Item
                    key={hostHeader}
                    leftSection={<IconCheck size={15} aria-hidden visibility={selected ? "visible" : "hidden"} />}
                    aria-label={name}
                    aria-current={selected}
                    onClick={() => void change({ hostHeader })}
                  >
                    <span style={{ overflowWrap: "anywhere" }}>{name}</span>
                    <Text size="xs" c="dimmed">
                      {use}
                    </Text>
                  </Menu.Item>
                );
              })}
            </Menu.Dropdown>
          </Menu>
        )}
      </form>
      {canEmbed(location.href, url, port.sharing) ? (
        <iframe
          key={`${port.port} ${reloads}`}
          className="frame"
          title={`Port ${port.port} of ${branchReference(project.name, project.branch)}`}
          src={url}
          sandbox={sandbox}
          // The gateway then knows that this page is what frames a response, and explains one that forbids it.
          referrerPolicy="origin"
          allow="clipboard-read; clipboard-write; microphone; camera; fullscreen"
        />
      ) : (
        <div className="empty">
          <Text size="sm" maw={400}>
            Over plain http, browsers block the sign-in of a private preview in an embedded page. Open it in a new tab, or
            serve this server over https.
          </Text>
          <Button component="a" href={url} target="_blank" rel="noreferrer" variant="default">
            Open port {port.port}
          </Button>
        </div>
      )}
      <Modal opened={paths !== undefined} onClose={() => setPaths(undefined)} title={`Public paths of port ${port.port}`}>
        <form onSubmit={(event) => void savePaths(event)}>
          <Text size="sm" mb="sm">
            Everyone may request these paths and all below them, for webhooks and sign-in callbacks. One path on each line.
          </Text>
          <Textarea aria-label="Public paths" autosize minRows={3} maxRows={10} mb="sm" placeholder="/webhook" value={paths ?? ""} onChange={(event) => setPaths(event.currentTarget.value)} spellCheck={false} />
          <Button type="submit" size="sm">
            Save
          </Button>
        </form>
      </Modal>
      <Modal opened={link !== undefined} onClose={() => setLink(undefined)} title="Access link">
        <Text size="sm" mb="sm">
          Anyone with this link can open port {port.port}. Copy it now; it is not shown again. Creating a new link revokes it.
        </Text>
        <TextInput readOnly value={link ?? ""} aria-label="Link" mb="sm" onFocus={(event) => event.currentTarget.select()} />
        <CopyButton value={link ?? ""}>{({ copied, copy }) => <Button onClick={copy}>{copied ? "Copied" : "Copy"}</Button>}</CopyButton>
      </Modal>
    </>
  );
}
