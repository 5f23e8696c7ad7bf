// Account screen: theme, password, sessions, and access tokens.
import { Alert, Button, CopyButton, Group, PasswordInput, SegmentedControl, Table, Text, TextInput, Title, useMantineColorScheme } from "@mantine/core";
import { notifications } from "@mantine/notifications";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { type FormEvent, useState } from "react";
import { api, data, errorMessage } from "../api/client";
import { me, notifyError, sessions, tokens } from "../api/queries";
import { formatDateTime, timeAgo } from "../logic/time";
import { describeUserAgent } from "../logic/userAgent";
import { RemovableTable } from "../shell/RemovableTable";

export function Account() {
  const currentUser = useQuery(me).data;
  const { colorScheme, setColorScheme } = useMantineColorScheme();
  return (
    <div className="column" style={{ maxWidth: 820 }}>
      <Title order={1} mb="lg">
        Account
      </Title>
      <section className="section">
        <Title order={2} mb="xs">
          Theme
        </Title>
        <SegmentedControl
          size="xs"
          aria-label="Theme"
          value={colorScheme}
          onChange={(value) => setColorScheme(value as typeof colorScheme)}
          data={[
            { value: "auto", label: "System" },
            { value: "light", label: "Light" },
            { value: "dark", label: "Dark" },
          ]}
        />
      </section>
      <Password hasPassword={currentUser?.hasPassword ?? false} />
      <Sessions />
      <Tokens />
    </div>
  );
}

function Password({ hasPassword }: { hasPassword: boolean }) {
  const queries = useQueryClient();
  const set = useMutation({
    mutationFn: async (body: { password: string; current?: string }) => {
      await data(api.PUT("/api/auth/password", { body }));
    },
    onSuccess: () => {
      notifications.show({ message: "Password updated. Your other sessions were signed out." });
      return queries.invalidateQueries();
    },
  });
  const submit = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    const form = event.currentTarget;
    const fields = new FormData(form);
    const current = String(fields.get("current") ?? "");
    set.mutate({ password: String(fields.get("password")), ...(current && { current }) }, { onSuccess: () => form.reset() });
  };
  return (
    <section className="section">
      <Title order={2} mb="xs">
        Password
      </Title>
      {set.isError && (
        <Alert color="red" role="alert" py="xs" mb="sm">
          {errorMessage(set.error)}
        </Alert>
      )}
      <form onSubmit={submit}>
        <Group align="flex-end" gap="xs">
          {hasPassword && <PasswordInput name="current" label="Current password" autoComplete="current-password" w={220} />}
          <PasswordInput name="password" label="New password" autoComplete="new-password" required withAsterisk={false} w={220} />
          <Button type="submit" size="sm" variant="default" loading={set.isPending}>
            {hasPassword ? "Change password" : "Set password"}
          </Button>
        </Group>
      </form>
    </section>
  );
}

function Sessions() {
  const queries = useQueryClient();
  const found = useQuery(sessions);
  const end = useMutation({
    mutationFn: async (session: string) => {
      await data(api.DELETE("/api/auth/sessions/{session}", { params: { path: { session } } }));
    },
    onSettled: () => queries.invalidateQueries({ queryKey: ["sessions"] }),
    onError: notifyError,
  });
  return (
    <section className="section">
      <Title order={2} mb="xs">
        Sessions
      </Title>
      <RemovableTable
        rows={found.data?.items ?? []}
        id={(session) => session.id}
        className="scroll"
        cells={(session) => (
          <>
            <Table.Td title={session.userAgent}>
              {describeUserAgent(session.userAgent)}
              {session.current && (
                <Text span size="xs" c="dimmed">
                  {" "}
                  · current session
                </Text>
              )}
            </Table.Td>
            <Table.Td c="dimmed" style={{ whiteSpace: "nowrap" }}>
              {session.address}
            </Table.Td>
            <Table.Td c="dimmed" title={formatDateTime(session.lastSeenAt)} style={{ whiteSpace: "nowrap" }}>
              {timeAgo(session.lastSeenAt)}
            </Table.Td>
          </>
        )}
        removeAction={(session) =>
          session.current
            ? undefined
            : {
                label: "Revoke session",
                buttonText: "Revoke",
                confirmation: {
                  title: "Revoke session?",
                  text: `${describeUserAgent(session.userAgent)} will be signed out.`,
                  action: "Revoke",
                  run: () => end.mutate(session.id),
                },
              }
        }
      />
    </section>
  );
}

function Tokens() {
  const queries = useQueryClient();
  const found = useQuery(tokens);
  const [secret, setSecret] = useState<string>();
  const refresh = () => queries.invalidateQueries({ queryKey: ["tokens"] });
  const create = useMutation({
    mutationFn: (name: string) => data(api.POST("/api/tokens", { body: { name } })),
    onSuccess: (token) => {
      setSecret(token.token ?? undefined);
      return refresh();
    },
    onError: notifyError,
  });
  const revoke = useMutation({
    mutationFn: async (token: string) => {
      await data(api.DELETE("/api/tokens/{token}", { params: { path: { token } } }));
    },
    onSettled: refresh,
    onError: notifyError,
  });
  const submit = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    const form = event.currentTarget;
    const name = String(new FormData(form).get("name")).trim();
    if (name) create.mutate(name, { onSuccess: () => form.reset() });
  };
  return (
    <section className="section">
      <Title order={2} mb="xs">
        Access tokens
      </Title>
      <Text size="sm" c="dimmed" mb="sm">
        For the command line and scripts. A token has the same permissions as you, except that it creates no tokens, links or users.
      </Text>
      {secret && (
        <Alert mb="sm" title="Copy the token now. It is not shown again." withCloseButton onClose={() => setSecret(undefined)}>
          <Group gap="xs" wrap="nowrap">
            <code className="clip grow">{secret}</code>
            <CopyButton value={secret}>
              {({ copied, copy }) => (
                <Button size="compact-xs" onClick={copy}>
                  {copied ? "Copied" : "Copy"}
                </Button>
              )}
            </CopyButton>
          </Group>
        </Alert>
      )}
      {(found.data?.items.length ?? 0) > 0 && (
        <RemovableTable
          rows={found.data?.items ?? []}
          id={(token) => token.id}
          className="scroll"
          cells={(token) => (
            <>
              <Table.Td>{token.name}</Table.Td>
              <Table.Td c="dimmed">created {timeAgo(token.createdAt)}</Table.Td>
              <Table.Td c="dimmed">{token.lastUsedAt ? `last used ${timeAgo(token.lastUsedAt)}` : "never used"}</Table.Td>
            </>
          )}
          removeAction={(token) => ({
            label: `Revoke ${token.name}`,
            confirmation: {
              title: `Revoke token ${token.name}?`,
              text: "Programs that use it lose access immediately.",
              action: "Revoke",
              run: () => revoke.mutate(token.id),
            },
          })}
        />
      )}
      <form onSubmit={submit}>
        <Group align="flex-end" gap="xs">
          <TextInput name="name" label="Token name" placeholder="laptop" required withAsterisk={false} w={220} />
          <Button type="submit" size="sm" variant="default" loading={create.isPending}>
            Create token
          </Button>
        </Group>
      </form>
    </section>
  );
}
