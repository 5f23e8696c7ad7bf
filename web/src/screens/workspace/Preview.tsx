// What the sandbox serves: its ports, an address bar, and who may open them.
import { ActionIcon, Button, CopyButton, Menu, Modal, Select, Text, TextInput, Tooltip } from "@mantine/core";
import { IconExternalLink, IconLink, IconLock, IconRefresh, IconWorld } from "@tabler/icons-react";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { type FormEvent, useState } from "react";
import { type Port, type Project, type Schemas, api, data } from "../../api/client";
import { complain, ports } from "../../api/queries";
import { address } from "../../logic/address";
import { framable } from "../../logic/frame";
import { may } from "../../logic/role";

const terminalPort = 7681;
const icons = { private: IconLock, link: IconLink, public: IconWorld };
const words = { private: "Only members", link: "Whoever has the link", public: "Everybody" };

export default function Preview({ project }: { project: Project }) {
  const queries = useQueryClient();
  const found = useQuery(ports(project.id)).data?.items ?? project.sandbox?.ports ?? [];
  const offered = found.filter((port) => port.port !== terminalPort);
  const [chosen, setChosen] = useState<number>();
  const [path, setPath] = useState("/");
  const [typed, setTyped] = useState("/");
  const [round, setRound] = useState(0);
  const [link, setLink] = useState<string>();
  const port: Port | undefined = offered.find((one) => one.port === chosen) ?? offered.find((one) => one.process) ?? offered[0];

  if (!port) {
    return (
      <div className="empty">
        <Text c="var(--mantine-color-text)" fw={500}>
          Nothing listens yet
        </Text>
        <Text maw={380} size="sm">
          Start a server in the terminal, on any port. It appears here by itself. For a look: <code>python3 -m http.server 3000</code>
        </Text>
      </div>
    );
  }
  const go = (event: FormEvent) => {
    event.preventDefault();
    const next = address(typed);
    setTyped(next);
    setPath(next);
    setRound(round + 1);
  };
  const share = async (sharing: Schemas["Sharing"]) => {
    try {
      const shared = await data(
        api.PUT("/api/projects/{project}/ports/{port}", { params: { path: { project: project.id, port: port.port } }, body: { sharing } }),
      );
      if (shared.link) setLink(shared.link);
      await queries.invalidateQueries({ queryKey: ["project", project.id] });
    } catch (error) {
      complain(error);
    }
  };
  const Icon = icons[port.sharing];
  const url = port.url.replace(/\/$/, "") + path;
  return (
    <>
      <form className="tools" onSubmit={go}>
        <Select
          aria-label="Port"
          size="xs"
          w={132}
          allowDeselect={false}
          value={String(port.port)}
          onChange={(value) => value && setChosen(Number(value))}
          data={offered.map((one) => ({ value: String(one.port), label: one.process ? `${one.port} ${one.process}` : String(one.port) }))}
        />
        <TextInput
          aria-label="Path"
          size="xs"
          className="grow"
          value={typed}
          onChange={(event) => setTyped(event.currentTarget.value)}
          spellCheck={false}
        />
        <Tooltip label="Load again">
          <ActionIcon aria-label="Load again" onClick={() => setRound(round + 1)}>
            <IconRefresh size={16} />
          </ActionIcon>
        </Tooltip>
        <Tooltip label="Open in a tab of its own">
          <ActionIcon aria-label="Open in a tab of its own" component="a" href={url} target="_blank" rel="noreferrer">
            <IconExternalLink size={16} />
          </ActionIcon>
        </Tooltip>
        {may(project.role, "admin") && (
          <Menu position="bottom-end" width={220}>
            <Menu.Target>
              <Tooltip label={`Who may open it: ${words[port.sharing].toLowerCase()}`}>
                <ActionIcon aria-label="Who may open it">
                  <Icon size={16} />
                </ActionIcon>
              </Tooltip>
            </Menu.Target>
            <Menu.Dropdown>
              <Menu.Label>Who may open port {port.port}</Menu.Label>
              {(Object.keys(words) as (keyof typeof words)[]).map((sharing) => {
                const Icon = icons[sharing];
                return (
                  <Menu.Item key={sharing} leftSection={<Icon size={15} />} onClick={() => void share(sharing)} fw={sharing === port.sharing ? 600 : 400}>
                    {sharing === "link" && port.sharing === "link" ? "A new link (the old one ends)" : words[sharing]}
                  </Menu.Item>
                );
              })}
            </Menu.Dropdown>
          </Menu>
        )}
      </form>
      {framable(location.href, url, port.sharing) ? (
        <iframe
          key={`${port.port} ${round}`}
          className="frame"
          title={`Port ${port.port} of ${project.name}`}
          src={url}
          allow="clipboard-write; fullscreen"
        />
      ) : (
        <div className="empty">
          <Text size="sm" maw={400}>
            Over plain http a browser keeps no sign-in for a private page inside this one. Open it in a tab of its own, or
            serve this system over https.
          </Text>
          <Button component="a" href={url} target="_blank" rel="noreferrer" variant="default">
            Open port {port.port}
          </Button>
        </div>
      )}
      <Modal opened={link !== undefined} onClose={() => setLink(undefined)} title="The link">
        <Text size="sm" mb="sm">
          Whoever has it may open port {port.port}. It is shown this once; a new one ends it.
        </Text>
        <TextInput readOnly value={link ?? ""} aria-label="Link" mb="sm" onFocus={(event) => event.currentTarget.select()} />
        <CopyButton value={link ?? ""}>{({ copied, copy }) => <Button onClick={copy}>{copied ? "Copied" : "Copy"}</Button>}</CopyButton>
      </Modal>
    </>
  );
}
