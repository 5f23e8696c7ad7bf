// The terminals of a project in tabs. A session lives in the sandbox: closing the page ends nothing.
import { ActionIcon, Tooltip } from "@mantine/core";
import { useLocalStorage } from "@mantine/hooks";
import { IconLayoutColumns, IconPlus, IconX } from "@tabler/icons-react";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useEffect, useState } from "react";
import { type Project, api, data } from "../../api/client";
import { complain, terminals } from "../../api/queries";
import { may } from "../../logic/role";
import { nextSession } from "../../logic/sessions";
import { onAsked } from "./ask";
import { Terminal } from "./Terminal";

export default function Terminals({ project }: { project: Project }) {
  const queries = useQueryClient();
  const works = may(project.role, "editor");
  const known = useQuery(terminals(project.id)).data?.items;
  const [opened, setOpened] = useState<string[]>(["main"]);
  const [active, setActive] = useLocalStorage({
    key: `fsa.terminal.${project.id}`,
    defaultValue: "main",
    getInitialValueInEffect: false,
  });
  const [beside, setBeside] = useState<string | undefined>();
  const [titles, setTitles] = useState<Record<string, string>>({});
  const names = [...new Set(["main", ...opened, ...(known ?? []).map((session) => session.name)])];
  const current = names.includes(active) ? active : "main";

  const add = () => {
    const name = nextSession(names);
    setOpened([...opened, name]);
    return name;
  };
  // Another view asks for a terminal with a command, such as psql.
  useEffect(
    () =>
      onAsked((name) => {
        setOpened((opened) => [...new Set([...opened, name])]);
        setActive(name);
      }),
    [setActive],
  );
  const end = async (name: string) => {
    try {
      await data(api.DELETE("/api/projects/{project}/terminals/{terminal}", { params: { path: { project: project.id, terminal: name } } }));
    } catch (error) {
      complain(error);
      return;
    }
    setOpened((opened) => opened.filter((one) => one !== name));
    queries.setQueryData(terminals(project.id).queryKey, (old) => old && { ...old, items: old.items.filter((one) => one.name !== name) });
    if (beside === name) setBeside(undefined);
    if (current === name) setActive("main");
  };

  const shown = (name: string) => name === current || name === beside;
  return (
    <>
      <div className="tabs" role="toolbar" aria-label="Terminals">
        {names.map((name) => (
          <span key={name} style={{ display: "inline-flex", alignItems: "center", flex: "none" }}>
            <button type="button" aria-pressed={name === current} className="tab" title={titles[name]} onClick={() => setActive(name)}>
              {name}
            </button>
            {name !== "main" && works && (
              <ActionIcon size="xs" aria-label={`End the terminal ${name}`} onClick={() => void end(name)}>
                <IconX size={12} />
              </ActionIcon>
            )}
          </span>
        ))}
        {works && (
          <Tooltip label="New terminal">
            <ActionIcon aria-label="New terminal" onClick={() => setActive(add())}>
              <IconPlus size={15} />
            </ActionIcon>
          </Tooltip>
        )}
        <span className="grow" />
        {(works || names.length > 1) && (
          <Tooltip label={beside ? "One terminal" : "Two terminals side by side"}>
            <ActionIcon
              aria-label="Split"
              aria-pressed={beside !== undefined}
              onClick={() => setBeside(beside ? undefined : (names.find((name) => name !== current) ?? add()))}
            >
              <IconLayoutColumns size={15} />
            </ActionIcon>
          </Tooltip>
        )}
      </div>
      <div className="split">
        {names
          .filter((name) => opened.includes(name) || shown(name))
          .map((name) => (
            <Terminal
              key={name}
              project={project}
              session={name}
              shown={shown(name)}
              focused={name === current}
              title={(title) => setTitles((titles) => ({ ...titles, [name]: title }))}
            />
          ))}
      </div>
    </>
  );
}
