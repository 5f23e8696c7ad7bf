// One's own account: password, where one is signed in, and tokens for programs.
import { Alert, Button, CopyButton, Group, PasswordInput, SegmentedControl, Table, Text, TextInput, Title, useMantineColorScheme } from "@mantine/core";
import { notifications } from "@mantine/notifications";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { type FormEvent, useState } from "react";
import { api, data, sentence } from "../api/client";
import { complain, me, sessions, tokens } from "../api/queries";
import { browser } from "../logic/browser";
import { ago, at } from "../logic/time";
import { Rows } from "../shell/Rows";

export function Account() {
  const who = useQuery(me).data;
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
            { value: "auto", label: "As the system" },
            { value: "light", label: "Light" },
            { value: "dark", label: "Dark" },
          ]}
        />
      </section>
      <Password hasOne={who?.hasPassword ?? false} />
      <Sessions />
      <Tokens />
    </div>
  );
}

function Password({ hasOne }: { hasOne: boolean }) {
  const queries = useQueryClient();
  const set = useMutation({
    mutationFn: async (body: { password: string; current?: string }) => {
      await data(api.PUT("/api/auth/password", { body }));
    },
    onSuccess: () => {
      notifications.show({ message: "The password is set. Your other sessions have ended." });
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
          {sentence(set.error)}
        </Alert>
      )}
      <form onSubmit={submit}>
        <Group align="flex-end" gap="xs">
          {hasOne && <PasswordInput name="current" label="Current password" autoComplete="current-password" w={220} />}
          <PasswordInput name="password" label="New password" autoComplete="new-password" required withAsterisk={false} w={220} />
          <Button type="submit" size="sm" variant="default" loading={set.isPending}>
            {hasOne ? "Change" : "Set"}
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
    onError: complain,
  });
  return (
    <section className="section">
      <Title order={2} mb="xs">
        Where you are signed in
      </Title>
      <Rows
        rows={found.data?.items ?? []}
        id={(session) => session.id}
        className="scroll"
        cells={(session) => (
          <>
            <Table.Td title={session.userAgent}>
              {browser(session.userAgent)}
              {session.current && (
                <Text span size="xs" c="dimmed">
                  {" "}
                  · this one
                </Text>
              )}
            </Table.Td>
            <Table.Td c="dimmed" style={{ whiteSpace: "nowrap" }}>
              {session.address}
            </Table.Td>
            <Table.Td c="dimmed" title={at(session.lastSeenAt)} style={{ whiteSpace: "nowrap" }}>
              {ago(session.lastSeenAt)}
            </Table.Td>
          </>
        )}
        away={(session) =>
          session.current
            ? undefined
            : {
                label: "End this session",
                word: "End",
                question: {
                  title: `End the session of ${browser(session.userAgent)}?`,
                  text: "Whoever uses it has to sign in again.",
                  act: "End it",
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
  const fresh = () => queries.invalidateQueries({ queryKey: ["tokens"] });
  const create = useMutation({
    mutationFn: (name: string) => data(api.POST("/api/tokens", { body: { name } })),
    onSuccess: (token) => {
      setSecret(token.token ?? undefined);
      return fresh();
    },
    onError: complain,
  });
  const revoke = useMutation({
    mutationFn: async (token: string) => {
      await data(api.DELETE("/api/tokens/{token}", { params: { path: { token } } }));
    },
    onSettled: fresh,
    onError: complain,
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
        Tokens
      </Title>
      <Text size="sm" c="dimmed" mb="sm">
        For the command line and programs. A token may do what you may.
      </Text>
      {secret && (
        <Alert mb="sm" title="Copy it now; it is not shown again" withCloseButton onClose={() => setSecret(undefined)}>
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
        <Rows
          rows={found.data?.items ?? []}
          id={(token) => token.id}
          className="scroll"
          cells={(token) => (
            <>
              <Table.Td>{token.name}</Table.Td>
              <Table.Td c="dimmed">made {ago(token.createdAt)}</Table.Td>
              <Table.Td c="dimmed">{token.lastUsedAt ? `used ${ago(token.lastUsedAt)}` : "not used yet"}</Table.Td>
            </>
          )}
          away={(token) => ({
            label: `Revoke ${token.name}`,
            question: {
              title: `Revoke the token ${token.name}?`,
              text: "What uses it stops working at once.",
              act: "Revoke",
              run: () => revoke.mutate(token.id),
            },
          })}
        />
      )}
      <form onSubmit={submit}>
        <Group align="flex-end" gap="xs">
          <TextInput name="name" label="New token for" placeholder="laptop" required withAsterisk={false} w={220} />
          <Button type="submit" size="sm" variant="default" loading={create.isPending}>
            Make
          </Button>
        </Group>
      </form>
    </section>
  );
}
