// Environment variables of a project. Values are loaded only when they are revealed.
import { Alert, Button, Group, Modal, Stack, Table, Text, TextInput, Textarea, Title } from "@mantine/core";
import { IconEye, IconEyeOff } from "@tabler/icons-react";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { type FormEvent, useState } from "react";
import { type ProjectInBranch, api, data, errorMessage } from "../../api/client";
import { environment, notifyError } from "../../api/queries";
import { mainBranch } from "../../logic/branch";
import { parseDotenv } from "../../logic/dotenv";
import { hasRole } from "../../logic/role";
import { RemovableTable } from "../../shell/RemovableTable";

export default function Environment({ project }: { project: ProjectInBranch }) {
  const queries = useQueryClient();
  const [reveal, setReveal] = useState(false);
  const [pasting, setPasting] = useState(false);
  const [text, setText] = useState("");
  const [restarting, setRestarting] = useState(false);
  const names = useQuery(environment(project.reference, false));
  const values = useQuery({ ...environment(project.reference, true), enabled: reveal });
  const change = useMutation({
    mutationFn: (envVars: Record<string, string | null>) =>
      data(api.PATCH("/api/projects/{project}/environment", { params: { path: { project: project.reference } }, body: { envVars } })),
    onSuccess: async (after) => {
      setRestarting(after.restarting ?? false);
      setPasting(false);
      setText("");
      await queries.invalidateQueries({ queryKey: ["project-details", project.id] });
    },
    onError: notifyError,
  });
  const canEdit = hasRole(project.role, "editor");
  const parsed = parseDotenv(text);
  const count = Object.keys(parsed.variables).length;
  const variableNames = Object.keys(names.data?.envVars ?? {}).sort();
  const setVariable = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    const form = event.currentTarget;
    const fields = new FormData(form);
    const name = String(fields.get("name")).trim();
    if (name) change.mutate({ [name]: String(fields.get("value")) }, { onSuccess: () => form.reset() });
  };

  return (
    <div className="pad">
      <Group mb="xs">
        <Title order={2}>Environment</Title>
        <span className="grow" />
        {canEdit && (
          <>
            <Button variant="default" leftSection={reveal ? <IconEyeOff size={14} /> : <IconEye size={14} />} onClick={() => setReveal(!reveal)}>
              {reveal ? "Hide values" : "Reveal values"}
            </Button>
            <Button variant="default" onClick={() => setPasting(true)}>
              Paste .env
            </Button>
          </>
        )}
      </Group>
      <Text size="sm" c="dimmed" mb="md">
        {project.branch !== mainBranch && "These variables are set in this branch only, over the project's variables, which are shown on main. "}
        Changing a variable restarts a running sandbox immediately. Revealing values is recorded in the audit log.
      </Text>
      {restarting && (
        <Alert py="xs" mb="md" withCloseButton onClose={() => setRestarting(false)} role="status" title="The sandbox is restarting with the new variables." />
      )}
      {names.isError && (
        <Alert color="red" py="xs" mb="md">
          {errorMessage(names.error)}
        </Alert>
      )}
      {variableNames.length > 0 && (
        <RemovableTable
          rows={variableNames}
          id={(name) => name}
          layout="fixed"
          cells={(name) => (
            <>
              <Table.Td ff="monospace" className="clip" title={name}>
                {name}
              </Table.Td>
              <Table.Td ff="monospace" style={{ overflowWrap: "anywhere", userSelect: reveal ? "all" : "none" }}>
                {reveal ? (values.data?.envVars[name] ?? "…") : "••••••••"}
              </Table.Td>
            </>
          )}
          removeAction={(name) =>
            canEdit
              ? {
                  label: `Delete ${name}`,
                  confirmation: {
                    title: `Delete ${name}?`,
                    text: "A running sandbox restarts without it.",
                    action: "Delete",
                    run: () => change.mutate({ [name]: null }),
                  },
                }
              : undefined
          }
        />
      )}
      {names.data && variableNames.length === 0 && (
        <Text size="sm" mb="md">
          No variables yet. DATABASE_URL and agent credentials are set automatically.
        </Text>
      )}
      {canEdit && (
        <form onSubmit={setVariable}>
          <Group align="flex-end" wrap="nowrap" gap="xs">
            <TextInput name="name" label="Name" placeholder="API_KEY" required withAsterisk={false} pattern="[A-Za-z_][A-Za-z0-9_]*" className="grow" autoComplete="off" spellCheck={false} />
            <TextInput name="value" label="Value" className="grow" autoComplete="off" spellCheck={false} />
            <Button type="submit" size="sm" loading={change.isPending}>
              Set variable
            </Button>
          </Group>
        </form>
      )}
      <Modal opened={pasting} onClose={() => setPasting(false)} title="Paste a .env file" size="lg">
        <Stack gap="sm">
          <Textarea
            data-autofocus
            aria-label=".env"
            rows={10}
            value={text}
            onChange={(event) => setText(event.currentTarget.value)}
            spellCheck={false}
            styles={{ input: { fontFamily: "var(--mantine-font-family-monospace)" } }}
            error={parsed.problems[0] && `Line ${parsed.problems[0].line}: ${parsed.problems[0].reason}.`}
          />
          <Text size="xs" c="dimmed">
            Variables that are not listed here are not changed.
          </Text>
          <Group justify="flex-end">
            <Button disabled={count === 0 || parsed.problems.length > 0} loading={change.isPending} onClick={() => change.mutate(parsed.variables)}>
              Set {count === 1 ? "1 variable" : `${count} variables`}
            </Button>
          </Group>
        </Stack>
      </Modal>
    </div>
  );
}
