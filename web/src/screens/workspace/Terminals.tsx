// Terminal tabs of a project. Sessions live in the sandbox and survive closing the page.
import { ActionIcon, Menu, Tooltip } from "@mantine/core";
import { useLocalStorage } from "@mantine/hooks";
import { IconLayoutColumns, IconPlus, IconSettings, IconX } from "@tabler/icons-react";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useEffect, useState } from "react";
import { type ProjectInBranch, api, data } from "../../api/client";
import { notifyError, terminals } from "../../api/queries";
import { hasRole } from "../../logic/role";
import { isMac } from "../../logic/terminalKeys";
import { nextTerminalName } from "../../logic/terminalName";
import { Terminal } from "./Terminal";
import { onTerminalRequest } from "./terminalRequests";
import { useCopying, useOptionIsMeta } from "./terminalSettings";

export default function Terminals({ project }: { project: ProjectInBranch }) {
  const queries = useQueryClient();
  const canType = hasRole(project.role, "editor");
  const running = useQuery(terminals(project.reference)).data?.items;
  const [opened, setOpened] = useState<string[]>(["main"]);
  const [active, setActive] = useLocalStorage({
    key: `fsa.terminal.${project.reference}`,
    defaultValue: "main",
    getInitialValueInEffect: false,
  });
  const [copying, setCopying] = useCopying(project.id);
  const [optionIsMeta, setOptionIsMeta] = useOptionIsMeta();
  const [split, setSplit] = useState<string | undefined>();
  const [titles, setTitles] = useState<Record<string, string>>({});
  const names = [...new Set(["main", ...opened, ...(running ?? []).map((session) => session.name)])];
  const current = names.includes(active) ? active : "main";

  const add = () => {
    const name = nextTerminalName(names);
    setOpened([...opened, name]);
    return name;
  };
  // Another view requests a terminal with a command, such as psql.
  useEffect(
    () =>
      onTerminalRequest(project.reference, (name) => {
        setOpened((opened) => [...new Set([...opened, name])]);
        setActive(name);
      }),
    [project.reference, setActive],
  );
  const kill = async (name: string) => {
    try {
      await data(api.DELETE("/api/projects/{project}/terminals/{terminal}", { params: { path: { project: project.reference, terminal: name } } }));
    } catch (error) {
      notifyError(error);
      return;
    }
    setOpened((opened) => opened.filter((one) => one !== name));
    queries.setQueryData(terminals(project.reference).queryKey, (old) => old && { ...old, items: old.items.filter((one) => one.name !== name) });
    if (split === name) setSplit(undefined);
    if (current === name) setActive("main");
  };

  const isShown = (name: string) => name === current || name === split;
  return (
    <>
      <div className="tabs" role="toolbar" aria-label="Terminals">
        {names.map((name) => (
          <span key={name} style={{ display: "inline-flex", alignItems: "center", flex: "none" }}>
            <button type="button" aria-pressed={name === current} className="tab" title={titles[name]} onClick={() => setActive(name)}>
              {name}
            </button>
            {name !== "main" && canType && (
              <ActionIcon size="xs" aria-label={`Kill terminal ${name}`} onClick={() => void kill(name)}>
                <IconX size={12} />
              </ActionIcon>
            )}
          </span>
        ))}
        {canType && (
          <Tooltip label="New terminal">
            <ActionIcon aria-label="New terminal" onClick={() => setActive(add())}>
              <IconPlus size={15} />
            </ActionIcon>
          </Tooltip>
        )}
        <span className="grow" />
        <Menu position="bottom-end" width={280}>
          <Menu.Target>
            <Tooltip label="Terminal settings">
              <ActionIcon aria-label="Terminal settings">
                <IconSettings size={15} />
              </ActionIcon>
            </Tooltip>
          </Menu.Target>
          <Menu.Dropdown>
            <Menu.CheckboxItem checked={copying === "allow"} onChange={(on) => setCopying(on ? "allow" : "deny")}>
              Programs may copy to the clipboard
            </Menu.CheckboxItem>
            {isMac(navigator.platform) && (
              <Menu.CheckboxItem checked={optionIsMeta} onChange={setOptionIsMeta}>
                Option key is Meta (Esc)
              </Menu.CheckboxItem>
            )}
          </Menu.Dropdown>
        </Menu>
        {(canType || names.length > 1) && (
          <Tooltip label={split ? "Close split" : "Split terminal"}>
            <ActionIcon
              aria-label="Split terminal"
              aria-pressed={split !== undefined}
              onClick={() => setSplit(split ? undefined : (names.find((name) => name !== current) ?? add()))}
            >
              <IconLayoutColumns size={15} />
            </ActionIcon>
          </Tooltip>
        )}
      </div>
      <div className="split">
        {names
          .filter((name) => opened.includes(name) || isShown(name))
          .map((name) => (
            <Terminal
              key={name}
              project={project}
              session={name}
              shown={isShown(name)}
              focused={name === current}
              title={(title) => setTitles((titles) => ({ ...titles, [name]: title }))}
            />
          ))}
      </div>
    </>
  );
}
