// The frame of every screen of somebody who is signed in: the bar, the palette, and what is said
// while the server is away.
import { ActionIcon, Button, Kbd, Menu, useMantineColorScheme } from "@mantine/core";
import { useHotkeys } from "@mantine/hooks";
import { IconCommand, IconLogout, IconMoon, IconSettings, IconSun, IconUser, IconUsers } from "@tabler/icons-react";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, Outlet, useNavigate, useParams } from "@tanstack/react-router";
import { Suspense, lazy, useEffect, useState } from "react";
import { api, data } from "../api/client";
import { live, useLine } from "../api/live";
import { complain, me, project as projectQuery } from "../api/queries";

const Palette = lazy(() => import("./Palette"));

export function Shell() {
  const queries = useQueryClient();
  const navigate = useNavigate();
  const who = useQuery(me).data;
  const line = useLine();
  const [palette, setPalette] = useState(false);
  const { project } = useParams({ strict: false });
  const named = useQuery({ ...projectQuery(project ?? ""), enabled: project !== undefined }).data?.name;
  const { colorScheme, setColorScheme } = useMantineColorScheme();
  const dark = colorScheme === "dark" || (colorScheme === "auto" && matchMedia("(prefers-color-scheme: dark)").matches);

  useEffect(() => live(queries), [queries]);
  // Also where the keys are a terminal's: this one chord is the page's.
  useHotkeys([["mod+K", () => setPalette((open) => !open)]], [], true);

  const signOut = async () => {
    try {
      await data(api.POST("/api/auth/sign-out"));
      queries.clear();
      await navigate({ to: "/sign-in" });
    } catch (error) {
      complain(error);
    }
  };

  return (
    <div className="shell">
      <header className="bar">
        <Link to="/" className="brand">
          <img src="/icon.svg" alt="" />
          <span className="clip">{project ? "Projects" : "FullStack Agent"}</span>
        </Link>
        {project && (
          <>
            <span aria-hidden="true" style={{ opacity: 0.4 }}>
              /
            </span>
            <strong className="clip" id="project-name">
              {named ?? project}
            </strong>
          </>
        )}
        <span className="grow" />
        <Button
          variant="default"
          onClick={() => setPalette(true)}
          leftSection={<IconCommand size={14} />}
          rightSection={<Kbd fz={10}>Ctrl K</Kbd>}
          visibleFrom="sm"
        >
          Go to
        </Button>
        <ActionIcon hiddenFrom="sm" aria-label="Go to" onClick={() => setPalette(true)}>
          <IconCommand size={18} />
        </ActionIcon>
        <ActionIcon
          aria-label={dark ? "Light theme" : "Dark theme"}
          onClick={() => setColorScheme(dark ? "light" : "dark")}
        >
          {dark ? <IconSun size={18} /> : <IconMoon size={18} />}
        </ActionIcon>
        <Menu position="bottom-end" width={200}>
          <Menu.Target>
            <Button variant="subtle" color="gray" leftSection={<IconUser size={16} />} aria-label={`${who?.login ?? ""}: account menu`} px={8}>
              <span className="clip" style={{ maxWidth: 90 }}>
                {who?.login}
              </span>
            </Button>
          </Menu.Target>
          <Menu.Dropdown>
            <Menu.Item component={Link} to="/account" leftSection={<IconSettings size={15} />}>
              Account
            </Menu.Item>
            {who?.role === "owner" && (
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
      {line === "away" && (
        <div className="notice" role="status">
          The server does not answer. This page tries again by itself and loses nothing.
        </div>
      )}
      <main className="screen">
        <Outlet />
      </main>
      <Suspense>{palette && <Palette close={() => setPalette(false)} />}</Suspense>
    </div>
  );
}
