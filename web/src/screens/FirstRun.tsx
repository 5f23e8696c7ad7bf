// Setup steps for the owner of a new server: a password, health checks, an agent credential, the first project.
import { Alert, Button, Group, PasswordInput, Select, Text, Title } from "@mantine/core";
import { IconCheck, IconPlus } from "@tabler/icons-react";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { type FormEvent, type ReactNode, useState } from "react";
import { api, data, errorMessage } from "../api/client";
import { agentCredentials, me } from "../api/queries";
import { Checks } from "./administration/System";

/** Credentials of Claude Code; others are set with `fsa agent set-key`. */
const credentialNames = ["ANTHROPIC_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN", "ANTHROPIC_AUTH_TOKEN"];

export default function FirstRun({ create }: { create: () => void }) {
  const currentUser = useQuery(me).data;
  return (
    <div className="panel" style={{ padding: "20px 24px 24px", maxWidth: 760 }}>
      <Title order={2} mb={4}>
        Welcome to FullStack Agent
      </Title>
      <Text size="sm" c="dimmed" mb="lg">
        You are the owner of this new server. You can do all of this later.
      </Text>
      <ol className="steps">
        <Step title="Set a password" done={currentUser?.hasPassword ?? false} doneText="You can sign in with your password.">
          <Password />
        </Step>
        <Step title="Check the server">
          <Checks all={false} />
          <Text size="xs" c="dimmed" mt={6}>
            See all checks in <Link to="/administration" style={{ color: "inherit" }}>Administration</Link> under System, or run “fsa doctor”.
          </Text>
        </Step>
        <Step title="Add an API key for Claude Code">
          <AgentKey />
        </Step>
        <Step title="Create your first project">
          <Text size="sm" mb="sm">
            A project is a Linux sandbox with a terminal for Claude Code, its own PostgreSQL database, and preview URLs for
            the servers that run in it.
          </Text>
          <Button leftSection={<IconPlus size={15} />} onClick={create}>
            New project
          </Button>
        </Step>
      </ol>
    </div>
  );
}

function Step({ title, done = false, doneText, children }: { title: string; done?: boolean; doneText?: string; children: ReactNode }) {
  return (
    <li data-done={done}>
      <Title order={3} mb={6}>
        {title} {done && <IconCheck size={15} color="var(--mantine-color-teal-6)" aria-label="Done" style={{ verticalAlign: "-2px" }} />}
      </Title>
      {done && doneText ? <Text size="sm">{doneText}</Text> : children}
    </li>
  );
}

function Password() {
  const queries = useQueryClient();
  const set = useMutation({
    mutationFn: async (password: string) => {
      await data(api.PUT("/api/auth/password", { body: { password } }));
    },
    onSuccess: () => queries.invalidateQueries({ queryKey: ["me"] }),
  });
  const submit = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    set.mutate(String(new FormData(event.currentTarget).get("password")));
  };
  return (
    <form onSubmit={submit}>
      <Text size="sm" mb={6}>
        Your sign-in link can be used only once. Set a password to sign in again as “owner”.
      </Text>
      {set.isError && <RequestError error={set.error} />}
      <Group gap="xs" align="flex-end">
        <PasswordInput name="password" aria-label="New password" placeholder="New password" autoComplete="new-password" required w={240} />
        <Button type="submit" size="sm" variant="default" loading={set.isPending}>
          Set password
        </Button>
      </Group>
    </form>
  );
}

function AgentKey() {
  const queries = useQueryClient();
  const credentials = useQuery(agentCredentials);
  const [name, setName] = useState(credentialNames[0] ?? "");
  const set = useMutation({
    mutationFn: (value: string) => data(api.PATCH("/api/me/agent-credentials", { body: { envVars: { [name]: value } } })),
    onSuccess: (after) => queries.setQueryData(agentCredentials.queryKey, after),
  });
  const existing = Object.keys(credentials.data?.envVars ?? {});
  const submit = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    const form = event.currentTarget;
    set.mutate(String(new FormData(form).get("key")), { onSuccess: () => form.reset() });
  };
  return (
    <form onSubmit={submit}>
      <Text size="sm" mb={6}>
        {existing.length > 0
          ? `Set for all of your projects: ${existing.join(", ")}.`
          : "Used in all of your projects. Without a key, Claude Code asks you to sign in from its terminal."}
      </Text>
      {set.isError && <RequestError error={set.error} />}
      <Group gap="xs" align="flex-end">
        <Select aria-label="Key type" w={240} allowDeselect={false} value={name} onChange={(value) => value && setName(value)} data={credentialNames} />
        <PasswordInput name="key" aria-label="API key" placeholder="API key" autoComplete="off" required w={240} />
        <Button type="submit" size="sm" variant="default" loading={set.isPending}>
          Save key
        </Button>
      </Group>
    </form>
  );
}

function RequestError({ error }: { error: unknown }) {
  return (
    <Alert color="red" role="alert" py="xs" mb="xs">
      {errorMessage(error)}
    </Alert>
  );
}
