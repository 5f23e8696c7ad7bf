// Members of a project and their roles. Without the admin role the list is read-only, and a member can leave.
import { Alert, Button, Group, Select, Table, Text, TextInput, Title } from "@mantine/core";
import { notifications } from "@mantine/notifications";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { type FormEvent, useState } from "react";
import { type Project, api, data, errorMessage } from "../../api/client";
import { me, members } from "../../api/queries";
import { type ProjectRole, assignableRoles, hasRole } from "../../logic/role";
import { formatDateTime } from "../../logic/time";
import { RemovableTable } from "../../shell/RemovableTable";

export function Sharing({ project }: { project: Project }) {
  const queries = useQueryClient();
  const navigate = useNavigate();
  const currentUser = useQuery(me).data;
  const found = useQuery(members(project.id));
  const [role, setRole] = useState<ProjectRole>("editor");
  const canManage = hasRole(project.role, "admin");
  const path = (user: string) => ({ params: { path: { project: project.id, user } } });
  const share = useMutation({
    mutationFn: ({ user, role }: { user: string; role: ProjectRole }) =>
      data(api.PUT("/api/projects/{project}/members/{user}", { ...path(user), body: { role } })),
    onSuccess: (after) => queries.setQueryData(members(project.id).queryKey, after),
  });
  const remove = useMutation({
    mutationFn: async (user: string) => {
      await data(api.DELETE("/api/projects/{project}/members/{user}", path(user)));
    },
    onSuccess: async (_, user) => {
      if (user !== currentUser?.id) return queries.invalidateQueries({ queryKey: members(project.id).queryKey });
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
  const error = share.error ?? remove.error ?? found.error;
  return (
    <section className="section" aria-label="Sharing">
      <Title order={2} mb="xs">
        Sharing
      </Title>
      {error && (
        <Alert color="red" role="alert" py="xs" mb="sm">
          {errorMessage(error)}
        </Alert>
      )}
      <RemovableTable
        rows={found.data?.items ?? []}
        id={(member) => member.userId}
        actionWidth={80}
        cells={(member) => (
          <>
            <Table.Td className="clip" title={`Member since ${formatDateTime(member.since)}`}>
              {member.login}
              {member.userId === currentUser?.id && (
                <Text span size="xs" c="dimmed">
                  {" "}
                  · you
                </Text>
              )}
            </Table.Td>
            <Table.Td w={140}>
              {canManage && member.role !== "owner" && member.userId !== currentUser?.id ? (
                <Select
                  size="xs"
                  aria-label={`Role of ${member.login}`}
                  allowDeselect={false}
                  value={member.role}
                  onChange={(value) => value && share.mutate({ user: member.userId, role: value as ProjectRole })}
                  data={assignableRoles.map(({ value, label }) => ({ value, label }))}
                />
              ) : (
                <Text size="sm" c="dimmed" tt="capitalize">
                  {member.role}
                </Text>
              )}
            </Table.Td>
          </>
        )}
        removeAction={(member) => {
          if (member.role === "owner") return undefined;
          const run = () => remove.mutate(member.userId);
          if (member.userId === currentUser?.id) {
            const text = "You lose access until the project is shared with you again.";
            return { label: "Leave project", buttonText: "Leave", confirmation: { title: `Leave ${project.name}?`, text, action: "Leave", run } };
          }
          if (!canManage) return undefined;
          const label = `Remove ${member.login}`;
          const text = "Their open terminals, streams and previews close immediately.";
          return { label, confirmation: { title: `Remove ${member.login} from ${project.name}?`, text, action: "Remove", run } };
        }}
      />
      {canManage && (
        <form onSubmit={submit}>
          <Group align="flex-end" gap="xs">
            <TextInput name="login" label="Share with" placeholder="login" required withAsterisk={false} autoComplete="off" spellCheck={false} w={200} />
            <Select
              label="Role"
              w={130}
              allowDeselect={false}
              value={role}
              onChange={(value) => value && setRole(value as ProjectRole)}
              data={assignableRoles.map(({ value, label }) => ({ value, label }))}
            />
            <Button type="submit" size="sm" variant="default" loading={share.isPending}>
              Share
            </Button>
          </Group>
          <Text size="xs" c="dimmed" mt={6}>
            {assignableRoles.find((one) => one.value === role)?.label} {assignableRoles.find((one) => one.value === role)?.description}.
          </Text>
        </form>
      )}
    </section>
  );
}
