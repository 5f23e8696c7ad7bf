// What a new installation shows to its first person: what the machine still lacks, the two things worth
// setting before anybody else comes, and the way to the first project.
import { Alert, Button, Group, PasswordInput, Select, Text, Title } from "@mantine/core";
import { IconCheck, IconPlus } from "@tabler/icons-react";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { type FormEvent, type ReactNode, useState } from "react";
import { api, data, sentence } from "../api/client";
import { agentKeys, me } from "../api/queries";
import { Checks } from "./administration/System";

/** Credentials that agents know; others are set with `fsa agent set-key`. */
const known = ["ANTHROPIC_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN", "ANTHROPIC_AUTH_TOKEN"];

export default function FirstRun({ create }: { create: () => void }) {
  const who = useQuery(me).data;
  return (
    <div className="panel" style={{ padding: "20px 24px 24px", maxWidth: 760 }}>
      <Title order={2} mb={4}>
        Welcome to FullStack Agent
      </Title>
      <Text size="sm" c="dimmed" mb="lg">
        This server is new, and you are its owner. Everything here can also be done later.
      </Text>
      <ol className="steps">
        <Step title="Choose a password" done={who?.hasPassword ?? false} says="You can sign in with it.">
          <Password />
        </Step>
        <Step title="See what this server lacks">
          <Checks all={false} />
          <Text size="xs" c="dimmed" mt={6}>
            All points are in <Link to="/administration" style={{ color: "inherit" }}>Administration</Link> under System, and in “fsa doctor”.
          </Text>
        </Step>
        <Step title="Give Claude Code a key">
          <Key />
        </Step>
        <Step title="Make your first project">
          <Text size="sm" mb="sm">
            It is a Linux sandbox with a terminal where Claude Code runs, a PostgreSQL database of its own, and an address
            for whatever it serves.
          </Text>
          <Button leftSection={<IconPlus size={15} />} onClick={create}>
            Make it
          </Button>
        </Step>
      </ol>
    </div>
  );
}

function Step({ title, done = false, says, children }: { title: string; done?: boolean; says?: string; children: ReactNode }) {
  return (
    <li data-done={done}>
      <Title order={3} mb={6}>
        {title} {done && <IconCheck size={15} color="var(--mantine-color-teal-6)" aria-label="done" style={{ verticalAlign: "-2px" }} />}
      </Title>
      {done && says ? <Text size="sm">{says}</Text> : children}
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
        The link that brought you here works once. With a password you sign in as “owner”.
      </Text>
      {set.isError && <Refused error={set.error} />}
      <Group gap="xs" align="flex-end">
        <PasswordInput name="password" aria-label="New password" placeholder="New password" autoComplete="new-password" required w={240} />
        <Button type="submit" size="sm" variant="default" loading={set.isPending}>
          Set
        </Button>
      </Group>
    </form>
  );
}

function Key() {
  const queries = useQueryClient();
  const found = useQuery(agentKeys);
  const [name, setName] = useState(known[0] ?? "");
  const set = useMutation({
    mutationFn: (value: string) => data(api.PATCH("/api/me/agent-credentials", { body: { envVars: { [name]: value } } })),
    onSuccess: (after) => queries.setQueryData(agentKeys.queryKey, after),
  });
  const has = Object.keys(found.data?.envVars ?? {});
  const submit = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    const form = event.currentTarget;
    set.mutate(String(new FormData(form).get("key")), { onSuccess: () => form.reset() });
  };
  return (
    <form onSubmit={submit}>
      <Text size="sm" mb={6}>
        {has.length > 0
          ? `Set for all of your projects: ${has.join(", ")}.`
          : "It goes into all of your projects. Without one, claude asks for a sign-in in its terminal."}
      </Text>
      {set.isError && <Refused error={set.error} />}
      <Group gap="xs" align="flex-end">
        <Select aria-label="Kind of key" w={240} allowDeselect={false} value={name} onChange={(value) => value && setName(value)} data={known} />
        <PasswordInput name="key" aria-label="Key" placeholder="Key" autoComplete="off" required w={240} />
        <Button type="submit" size="sm" variant="default" loading={set.isPending}>
          Keep it
        </Button>
      </Group>
    </form>
  );
}

function Refused({ error }: { error: unknown }) {
  return (
    <Alert color="red" role="alert" py="xs" mb="xs">
      {sentence(error)}
    </Alert>
  );
}
