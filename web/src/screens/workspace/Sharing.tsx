// Who may use a project beside its owner, and as what. Who may not change it sees it, and may leave.
import { Alert, Button, Group, Select, Table, Text, TextInput, Title } from "@mantine/core";
import { notifications } from "@mantine/notifications";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { type FormEvent, useState } from "react";
import { type Project, api, data, sentence } from "../../api/client";
import { me, members } from "../../api/queries";
import { type ProjectRole, given, may } from "../../logic/role";
import { at } from "../../logic/time";
import { Rows } from "../../shell/Rows";

export function Sharing({ project }: { project: Project }) {
  const queries = useQueryClient();
  const navigate = useNavigate();
  const who = useQuery(me).data;
  const found = useQuery(members(project.id));
  const [role, setRole] = useState<ProjectRole>("editor");
  const manages = may(project.role, "admin");
  const path = (user: string) => ({ params: { path: { project: project.id, user } } });
  const share = useMutation({
    mutationFn: ({ user, role }: { user: string; role: ProjectRole }) =>
      data(api.PUT("/api/projects/{project}/members/{user}", { ...path(user), body: { role } })),
    onSuccess: (after) => queries.setQueryData(members(project.id).queryKey, after),
  });
  const end = useMutation({
    mutationFn: async (user: string) => {
      await data(api.DELETE("/api/projects/{project}/members/{user}", path(user)));
    },
    onSuccess: async (_, user) => {
      if (user !== who?.id) return queries.invalidateQueries({ queryKey: members(project.id).queryKey });
      await navigate({ to: "/" });
      notifications.show({ message: `You left ${project.name}.` });
      return queries.invalidateQueries({ queryKey: ["projects"] });
    },
  });
  const submit = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    const form = event.currentTarget;
    const user = String(new FormData(form).get("login")).trim();
    if (user) share.mutate({ user, role }, { onSuccess: () => form.reset() });
  };
  const failed = share.error ?? end.error ?? found.error;
  return (
    <section className="section" aria-label="Sharing">
      <Title order={2} mb="xs">
        Sharing
      </Title>
      {failed && (
        <Alert color="red" role="alert" py="xs" mb="sm">
          {sentence(failed)}
        </Alert>
      )}
      <Rows
        rows={found.data?.items ?? []}
        id={(member) => member.userId}
        width={80}
        cells={(member) => (
          <>
            <Table.Td className="clip" title={`since ${at(member.since)}`}>
              {member.login}
              {member.userId === who?.id && (
                <Text span size="xs" c="dimmed">
                  {" "}
                  · you
                </Text>
              )}
            </Table.Td>
            <Table.Td w={140}>
              {manages && member.role !== "owner" && member.userId !== who?.id ? (
                <Select
                  size="xs"
                  aria-label={`Role of ${member.login}`}
                  allowDeselect={false}
                  value={member.role}
                  onChange={(value) => value && share.mutate({ user: member.userId, role: value as ProjectRole })}
                  data={given.map(({ value, label }) => ({ value, label }))}
                />
              ) : (
                <Text size="sm" c="dimmed">
                  {member.role}
                </Text>
              )}
            </Table.Td>
          </>
        )}
        away={(member) => {
          if (member.role === "owner") return undefined;
          const run = () => end.mutate(member.userId);
          if (member.userId === who?.id) {
            const text = "You have no way in any more until somebody shares it with you again.";
            return { label: "Leave this project", word: "Leave", question: { title: `Leave ${project.name}?`, text, act: "Leave", run } };
          }
          if (!manages) return undefined;
          const label = `End sharing with ${member.login}`;
          const text = "Terminals, streams and previews that they have open end at once.";
          return { label, question: { title: `${label}?`, text, act: "End it", run } };
        }}
      />
      {manages && (
        <form onSubmit={submit}>
          <Group align="flex-end" gap="xs">
            <TextInput name="login" label="Share with" placeholder="login" required withAsterisk={false} autoComplete="off" spellCheck={false} w={200} />
            <Select
              label="As"
              w={130}
              allowDeselect={false}
              value={role}
              onChange={(value) => value && setRole(value as ProjectRole)}
              data={given.map(({ value, label }) => ({ value, label }))}
            />
            <Button type="submit" size="sm" variant="default" loading={share.isPending}>
              Share
            </Button>
          </Group>
          <Text size="xs" c="dimmed" mt={6}>
            {given.find((one) => one.value === role)?.label} {given.find((one) => one.value === role)?.means}.
          </Text>
        </form>
      )}
    </section>
  );
}
