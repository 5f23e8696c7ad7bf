// For owners: who is here, what was done, and how the system is.
import { ActionIcon, Alert, Badge, Button, CopyButton, Group, Menu, Modal, Select, Table, Tabs, Text, TextInput, Title } from "@mantine/core";
import { IconDots, IconUserPlus } from "@tabler/icons-react";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { type Schemas, type User, api, data, sentence } from "../api/client";
import { audit, complain, me, users } from "../api/queries";
import { usedOf } from "../logic/limits";
import { ago, at } from "../logic/time";
import { Limits } from "./administration/Limits";
import { System } from "./administration/System";

export function Administration() {
  return (
    <div className="column">
      <Title order={1} mb="md">
        Administration
      </Title>
      <Tabs defaultValue="users" keepMounted={false}>
        <Tabs.List mb="md">
          <Tabs.Tab value="users">Users</Tabs.Tab>
          <Tabs.Tab value="system">System</Tabs.Tab>
          <Tabs.Tab value="audit">Audit</Tabs.Tab>
        </Tabs.List>
        <Tabs.Panel value="users">
          <Users />
        </Tabs.Panel>
        <Tabs.Panel value="system">
          <System />
        </Tabs.Panel>
        <Tabs.Panel value="audit">
          <Audit />
        </Tabs.Panel>
      </Tabs>
    </div>
  );
}

function Users() {
  const queries = useQueryClient();
  const found = useQuery(users);
  const who = useQuery(me).data;
  const [link, setLink] = useState<Schemas["SignInLink"] & { title: string }>();
  const [role, setRole] = useState<Schemas["Role"]>("member");
  const [removing, setRemoving] = useState<User>();
  const [limiting, setLimiting] = useState<User>();
  const [typed, setTyped] = useState("");
  const act = useMutation({
    mutationFn: (act: () => Promise<unknown>) => act(),
    onSettled: () => queries.invalidateQueries({ queryKey: ["users"] }),
    onError: complain,
  });
  const invite = () =>
    act.mutate(async () => setLink({ ...(await data(api.POST("/api/users/invites", { body: { role } }))), title: "The invitation" }));
  const change = (user: User, body: Schemas["ChangeUser"]) =>
    act.mutate(() => data(api.PATCH("/api/users/{user}", { params: { path: { user: user.id } }, body })));
  const signIn = (user: User) =>
    act.mutate(async () =>
      setLink({ ...(await data(api.POST("/api/users/{user}/link", { params: { path: { user: user.id } } }))), title: `A sign-in link for ${user.login}` }),
    );
  if (found.isError) return <Alert color="red">{sentence(found.error)}</Alert>;
  return (
    <>
      <Group mb="sm" gap="xs">
        <Text size="sm" c="dimmed" className="grow">
          {found.data?.items.length === 1 ? "You are the only one here." : `${found.data?.items.length ?? ""} people`}
        </Text>
        <Select size="xs" w={110} aria-label="Role of who is invited" allowDeselect={false} value={role} onChange={(value) => value && setRole(value as Schemas["Role"])} data={["member", "owner"]} />
        <Button leftSection={<IconUserPlus size={15} />} onClick={invite}>
          Invite
        </Button>
      </Group>
      <div className="panel scroll" tabIndex={0}>
        <Table>
          <Table.Thead>
            <Table.Tr>
              <Table.Th>Login</Table.Th>
              <Table.Th>Role</Table.Th>
              <Table.Th>Projects</Table.Th>
              <Table.Th>Running</Table.Th>
              <Table.Th visibleFrom="sm">Since</Table.Th>
              <Table.Th w={44} aria-label="Actions" />
            </Table.Tr>
          </Table.Thead>
          <Table.Tbody>
            {found.data?.items.map((user) => (
              <Table.Tr key={user.id}>
                <Table.Td>
                  {user.login}
                  {user.id === who?.id && (
                    <Text span size="xs" c="dimmed">
                      {" "}
                      · you
                    </Text>
                  )}
                  {user.disabled && (
                    <Badge ml={8} size="sm" color="red" variant="dot">
                      disabled
                    </Badge>
                  )}
                </Table.Td>
                <Table.Td>{user.role}</Table.Td>
                <Table.Td style={{ whiteSpace: "nowrap" }}>{usedOf(user.used?.projects ?? 0, user.limits?.projects)}</Table.Td>
                <Table.Td style={{ whiteSpace: "nowrap" }}>{usedOf(user.used?.running ?? 0, user.limits?.running)}</Table.Td>
                <Table.Td c="dimmed" visibleFrom="sm" title={at(user.createdAt)}>
                  {ago(user.createdAt)}
                </Table.Td>
                <Table.Td>
                  <Menu position="bottom-end">
                    <Menu.Target>
                      <ActionIcon aria-label={`More for ${user.login}`}>
                        <IconDots size={16} />
                      </ActionIcon>
                    </Menu.Target>
                    <Menu.Dropdown>
                      <Menu.Item onClick={() => setLimiting(user)}>Limits</Menu.Item>
                      <Menu.Item onClick={() => signIn(user)}>Make a sign-in link</Menu.Item>
                      <Menu.Item onClick={() => change(user, { role: user.role === "owner" ? "member" : "owner" })}>
                        Make {user.role === "owner" ? "a member" : "an owner"}
                      </Menu.Item>
                      <Menu.Item onClick={() => change(user, { disabled: !user.disabled })}>{user.disabled ? "Enable" : "Disable"}</Menu.Item>
                      <Menu.Item color="red" onClick={() => setRemoving(user)}>
                        Remove
                      </Menu.Item>
                    </Menu.Dropdown>
                  </Menu>
                </Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
      </div>
      {limiting && <Limits user={limiting} close={() => setLimiting(undefined)} />}
      <Modal opened={link !== undefined} onClose={() => setLink(undefined)} title={link?.title}>
        <Text size="sm" mb="sm">
          It works once, until {link && at(link.expiresAt)}. It is not shown again.
        </Text>
        <TextInput readOnly value={link?.url ?? ""} aria-label="Link" mb="sm" onFocus={(event) => event.currentTarget.select()} />
        <CopyButton value={link?.url ?? ""}>{({ copied, copy }) => <Button onClick={copy}>{copied ? "Copied" : "Copy"}</Button>}</CopyButton>
      </Modal>
      <Modal opened={removing !== undefined} onClose={() => setRemoving(undefined)} title={`Remove ${removing?.login}?`}>
        <TextInput
          data-autofocus
          label={`Type ${removing?.login} to remove this account with all of its projects`}
          value={typed}
          onChange={(event) => setTyped(event.currentTarget.value)}
          autoComplete="off"
        />
        <Group justify="flex-end" mt="md">
          <Button
            color="red"
            disabled={typed !== removing?.login}
            onClick={() => {
              const user = removing;
              setRemoving(undefined);
              setTyped("");
              if (user) act.mutate(() => data(api.DELETE("/api/users/{user}", { params: { path: { user: user.id } } })));
            }}
          >
            Remove
          </Button>
        </Group>
      </Modal>
    </>
  );
}

function Audit() {
  const found = useQuery(audit);
  if (found.isError) return <Alert color="red">{sentence(found.error)}</Alert>;
  return (
    <div className="panel scroll" tabIndex={0}>
      <Table>
        <Table.Thead>
          <Table.Tr>
            <Table.Th>When</Table.Th>
            <Table.Th>Who</Table.Th>
            <Table.Th>What</Table.Th>
            <Table.Th>Of</Table.Th>
            <Table.Th>From</Table.Th>
            <Table.Th>Result</Table.Th>
          </Table.Tr>
        </Table.Thead>
        <Table.Tbody>
          {found.data?.items.map((entry) => (
            <Table.Tr key={entry.id}>
              <Table.Td c="dimmed" title={at(entry.at)} style={{ whiteSpace: "nowrap" }}>
                {ago(entry.at)}
              </Table.Td>
              <Table.Td>{entry.login}</Table.Td>
              <Table.Td ff="monospace">{entry.action}</Table.Td>
              <Table.Td miw={260} style={{ overflowWrap: "anywhere" }}>{entry.object}</Table.Td>
              <Table.Td c="dimmed">{entry.address}</Table.Td>
              <Table.Td>{entry.result}</Table.Td>
            </Table.Tr>
          ))}
        </Table.Tbody>
      </Table>
    </div>
  );
}
