// Administration screen, for owners: users, images, system health, and the audit log.
import { ActionIcon, Alert, Badge, Button, CopyButton, Group, Menu, Modal, Select, Table, Tabs, Text, TextInput, Title } from "@mantine/core";
import { IconDots, IconUserPlus } from "@tabler/icons-react";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { type Schemas, type User, api, data, errorMessage } from "../api/client";
import { audit, me, notifyError, users } from "../api/queries";
import { formatUsage } from "../logic/limits";
import { formatDateTime, timeAgo } from "../logic/time";
import { Images } from "./administration/Images";
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
          <Tabs.Tab value="images">Images</Tabs.Tab>
          <Tabs.Tab value="system">System</Tabs.Tab>
          <Tabs.Tab value="audit">Audit log</Tabs.Tab>
        </Tabs.List>
        <Tabs.Panel value="users">
          <Users />
        </Tabs.Panel>
        <Tabs.Panel value="images">
          <Images />
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
  const currentUser = useQuery(me).data;
  const [link, setLink] = useState<Schemas["SignInLink"] & { title: string }>();
  const [role, setRole] = useState<Schemas["Role"]>("member");
  const [deleting, setDeleting] = useState<User>();
  const [editingLimits, setEditingLimits] = useState<User>();
  const [typed, setTyped] = useState("");
  const request = useMutation({
    mutationFn: (send: () => Promise<unknown>) => send(),
    onSettled: () => queries.invalidateQueries({ queryKey: ["users"] }),
    onError: notifyError,
  });
  const invite = () =>
    request.mutate(async () => setLink({ ...(await data(api.POST("/api/users/invites", { body: { role } }))), title: "Invitation link" }));
  const change = (user: User, body: Schemas["ChangeUser"]) =>
    request.mutate(() => data(api.PATCH("/api/users/{user}", { params: { path: { user: user.id } }, body })));
  const signIn = (user: User) =>
    request.mutate(async () =>
      setLink({ ...(await data(api.POST("/api/users/{user}/link", { params: { path: { user: user.id } } }))), title: `Sign-in link for ${user.login}` }),
    );
  if (found.isError) return <Alert color="red">{errorMessage(found.error)}</Alert>;
  return (
    <>
      <Group mb="sm" gap="xs">
        <Text size="sm" c="dimmed" className="grow">
          {found.data && (found.data.items.length === 1 ? "1 user" : `${found.data.items.length} users`)}
        </Text>
        <Select size="xs" w={110} aria-label="Role of the invited user" allowDeselect={false} value={role} onChange={(value) => value && setRole(value as Schemas["Role"])} data={[{ value: "member", label: "Member" }, { value: "owner", label: "Owner" }]} />
        <Button leftSection={<IconUserPlus size={15} />} onClick={invite}>
          Invite user
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
              <Table.Th visibleFrom="sm">Joined</Table.Th>
              <Table.Th w={44} aria-label="Actions" />
            </Table.Tr>
          </Table.Thead>
          <Table.Tbody>
            {found.data?.items.map((user) => (
              <Table.Tr key={user.id}>
                <Table.Td>
                  {user.login}
                  {user.id === currentUser?.id && (
                    <Text span size="xs" c="dimmed">
                      {" "}
                      · you
                    </Text>
                  )}
                  {user.disabled && (
                    <Badge ml={8} size="sm" color="red" variant="dot">
                      Disabled
                    </Badge>
                  )}
                </Table.Td>
                <Table.Td tt="capitalize">{user.role}</Table.Td>
                <Table.Td style={{ whiteSpace: "nowrap" }}>{formatUsage(user.used?.projects ?? 0, user.limits?.projects)}</Table.Td>
                <Table.Td style={{ whiteSpace: "nowrap" }}>{formatUsage(user.used?.running ?? 0, user.limits?.running)}</Table.Td>
                <Table.Td c="dimmed" visibleFrom="sm" title={formatDateTime(user.createdAt)}>
                  {timeAgo(user.createdAt)}
                </Table.Td>
                <Table.Td>
                  <Menu position="bottom-end">
                    <Menu.Target>
                      <ActionIcon aria-label={`Actions for ${user.login}`}>
                        <IconDots size={16} />
                      </ActionIcon>
                    </Menu.Target>
                    <Menu.Dropdown>
                      <Menu.Item onClick={() => setEditingLimits(user)}>Edit limits</Menu.Item>
                      <Menu.Item onClick={() => signIn(user)}>Create sign-in link</Menu.Item>
                      <Menu.Item onClick={() => change(user, { role: user.role === "owner" ? "member" : "owner" })}>
                        Change role to {user.role === "owner" ? "member" : "owner"}
                      </Menu.Item>
                      <Menu.Item onClick={() => change(user, { disabled: !user.disabled })}>{user.disabled ? "Enable" : "Disable"}</Menu.Item>
                      <Menu.Item c="var(--mantine-color-error)" onClick={() => setDeleting(user)}>
                        Delete
                      </Menu.Item>
                    </Menu.Dropdown>
                  </Menu>
                </Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
      </div>
      {editingLimits && <Limits user={editingLimits} close={() => setEditingLimits(undefined)} />}
      <Modal opened={link !== undefined} onClose={() => setLink(undefined)} title={link?.title}>
        <Text size="sm" mb="sm">
          The link can be used once and expires {link && formatDateTime(link.expiresAt)}. Copy it now; it is not shown again.
        </Text>
        <TextInput readOnly value={link?.url ?? ""} aria-label="Link" mb="sm" onFocus={(event) => event.currentTarget.select()} />
        <CopyButton value={link?.url ?? ""}>{({ copied, copy }) => <Button onClick={copy}>{copied ? "Copied" : "Copy"}</Button>}</CopyButton>
      </Modal>
      <Modal opened={deleting !== undefined} onClose={() => setDeleting(undefined)} title={`Delete ${deleting?.login}?`}>
        <TextInput
          data-autofocus
          label={`Type ${deleting?.login} to delete this account and all its projects`}
          value={typed}
          onChange={(event) => setTyped(event.currentTarget.value)}
          autoComplete="off"
        />
        <Group justify="flex-end" mt="md">
          <Button
            color="red"
            disabled={typed !== deleting?.login}
            onClick={() => {
              const user = deleting;
              setDeleting(undefined);
              setTyped("");
              if (user) request.mutate(() => data(api.DELETE("/api/users/{user}", { params: { path: { user: user.id } } })));
            }}
          >
            Delete
          </Button>
        </Group>
      </Modal>
    </>
  );
}

function Audit() {
  const found = useQuery(audit);
  if (found.isError) return <Alert color="red">{errorMessage(found.error)}</Alert>;
  return (
    <div className="panel scroll" tabIndex={0}>
      <Table>
        <Table.Thead>
          <Table.Tr>
            <Table.Th>Time</Table.Th>
            <Table.Th>User</Table.Th>
            <Table.Th>Action</Table.Th>
            <Table.Th>Object</Table.Th>
            <Table.Th>IP address</Table.Th>
            <Table.Th>Result</Table.Th>
          </Table.Tr>
        </Table.Thead>
        <Table.Tbody>
          {found.data?.items.map((entry) => (
            <Table.Tr key={entry.id}>
              <Table.Td c="dimmed" title={formatDateTime(entry.at)} style={{ whiteSpace: "nowrap" }}>
                {timeAgo(entry.at)}
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
