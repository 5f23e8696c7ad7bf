// Layout of every screen for a signed-in user: the top bar, the command palette, and the notice while the server
// is unreachable.
import { ActionIcon, Button, Kbd, Menu, useMantineColorScheme } from "@mantine/core";
import { IconCommand, IconLogout, IconMoon, IconSettings, IconSun, IconUser, IconUsers } from "@tabler/icons-react";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, Outlet, useNavigate, useParams } from "@tanstack/react-router";
import { Suspense, lazy, useEffect, useState } from "react";
import { api, data } from "../api/client";
import { subscribeToEvents, useConnectionState } from "../api/events";
import { me, notifyError, project as projectQuery } from "../api/queries";
import { parseReference } from "../logic/branch";
import { isMac, opensPalette } from "../logic/terminalKeys";
import { countUnsaved, discardAllUnsaved } from "../logic/unsaved";
import { BranchSwitcher, type OpenSwitcher } from "./BranchSwitcher";
import { useConfirm } from "./Confirm";

const Palette = lazy(() => import("./Palette"));

const mac = isMac(navigator.platform);

export function Shell() {
  const queries = useQueryClient();
  const navigate = useNavigate();
  const currentUser = useQuery(me).data;
  const connection = useConnectionState();
  const [palette, setPalette] = useState(false);
  const [confirmDialog, ask] = useConfirm();
  const { project } = useParams({ strict: false });
  const found = useQuery({ ...projectQuery(project ?? ""), enabled: project !== undefined }).data;
  const [switcher, setSwitcher] = useState<OpenSwitcher>();
  const { colorScheme, setColorScheme } = useMantineColorScheme();
  const dark = colorScheme === "dark" || (colorScheme === "auto" && matchMedia("(prefers-color-scheme: dark)").matches);

  useEffect(() => subscribeToEvents(queries), [queries]);
  useEffect(() => {
    const onKeyDown = (event: KeyboardEvent) => {
      const inTerminal = event.target instanceof Element && event.target.closest(".term") !== null;
      if (!opensPalette(event, mac, inTerminal)) return;
      event.preventDefault();
      setPalette((open) => !open);
    };
    document.addEventListener("keydown", onKeyDown);
    return () => document.removeEventListener("keydown", onKeyDown);
  }, []);

  const signOut = async () => {
    // Nothing of a user stays in the browser, which may be used by another user next.
    const unsaved = countUnsaved(localStorage);
    const text = `${unsaved === 1 ? "A file has" : `${unsaved} files have`} unsaved changes in this browser, which signing out discards.`;
    if (unsaved > 0 && !(await ask({ title: "Discard unsaved changes?", text, action: "Sign out" }))) return;
    try {
      await data(api.POST("/api/auth/sign-out"));
      discardAllUnsaved(localStorage);
      queries.clear();
      await navigate({ to: "/sign-in" });
    } catch (error) {
      notifyError(error);
    }
  };

  return (
    <div className="shell">
      <header className="bar">
        <Link to="/" className="brand">
          <img src="/icon.svg" alt="" />
          <span className={project ? "clip folds" : "clip"}>{project ? "Projects" : "FullStack Agent"}</span>
        </Link>
        {project && (
          <>
            <span aria-hidden="true" style={{ opacity: 0.4 }}>
              /
            </span>
            <strong className="clip" id="project-name">
              {found?.name ?? parseReference(project).project}
            </strong>
            {found && <BranchSwitcher project={found} opened={switcher} open={setSwitcher} />}
          </>
        )}
        <span className="grow" />
        <Button
          variant="default"
          onClick={() => setPalette(true)}
          leftSection={<IconCommand size={14} />}
          rightSection={<Kbd fz={10}>{mac ? "⌘ K" : "Ctrl K"}</Kbd>}
          visibleFrom="sm"
        >
          Command palette
        </Button>
        <ActionIcon hiddenFrom="sm" aria-label="Command palette" onClick={() => setPalette(true)}>
          <IconCommand size={18} />
        </ActionIcon>
        <ActionIcon
          aria-label={dark ? "Switch to light theme" : "Switch to dark theme"}
          onClick={() => setColorScheme(dark ? "light" : "dark")}
        >
          {dark ? <IconSun size={18} /> : <IconMoon size={18} />}
        </ActionIcon>
        <Menu position="bottom-end" width={200}>
          <Menu.Target>
            <Button variant="subtle" color="gray" leftSection={<IconUser size={16} />} aria-label={`${currentUser?.login ?? ""}: account menu`} px={8}>
              <span className="clip" style={{ maxWidth: 90 }}>
                {currentUser?.login}
              </span>
            </Button>
          </Menu.Target>
          <Menu.Dropdown>
            <Menu.Item component={Link} to="/account" leftSection={<IconSettings size={15} />}>
              Account
            </Menu.Item>
            {currentUser?.role === "owner" && (
              <Menu.Item component={Link} to="/administration" leftSection={<IconUsers size={15} />}>
                Administration
              </Menu.Item>
            )}
            <Menu.Divider />
            <Menu.Item leftSection={<IconLogout size={15} />} onClick={() => void signOut()}>
              Sign out
            </Menu.Item>
          </Menu.Dropdown>
        </Menu>
      </header>
      {connection === "lost" && (
        <div className="notice" role="status">
          Connection to the server lost. Reconnecting…
        </div>
      )}
      <main className="screen">
        <Outlet />
      </main>
      {confirmDialog}
      <Suspense>{palette && <Palette close={() => setPalette(false)} openSwitcher={setSwitcher} />}</Suspense>
    </div>
  );
}
