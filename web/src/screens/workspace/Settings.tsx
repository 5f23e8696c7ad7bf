// What a project is made of, and its end.
import { Alert, Button, Group, Modal, Select, SimpleGrid, Stack, Text, TextInput, Title } from "@mantine/core";
import { notifications } from "@mantine/notifications";
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { type FormEvent, useState } from "react";
import { type Project, type Schemas, api, data, sentence } from "../../api/client";
import { complain } from "../../api/queries";
import { nameProblem } from "../../logic/name";
import { may } from "../../logic/role";
import { sizes, sources } from "../../logic/sizes";
import { at } from "../../logic/time";
import { Sharing } from "./Sharing";

export default function Settings({ project }: { project: Project }) {
  const queries = useQueryClient();
  const navigate = useNavigate();
  const [name, setName] = useState(project.name);
  const [size, setSize] = useState<string>(project.size);
  const [from, setFrom] = useState<string>(project.image ? "image" : (project.template ?? "web"));
  const changes = may(project.role, "admin");
  const [deleting, setDeleting] = useState(false);
  const [typed, setTyped] = useState("");
  const change = useMutation({
    mutationFn: (body: Schemas["ChangeProject"]) =>
      data(api.PATCH("/api/projects/{project}", { params: { path: { project: project.id } }, body })),
    onSuccess: async (after) => {
      notifications.show({ message: "Saved." });
      queries.setQueryData(["projects", after.name], after);
      if (after.name !== project.name) {
        await navigate({ to: "/p/$project", params: { project: after.name }, search: { view: "settings" }, replace: true });
      }
      void queries.invalidateQueries({ queryKey: ["projects"] });
    },
  });
  const remove = useMutation({
    mutationFn: () => data(api.DELETE("/api/projects/{project}", { params: { path: { project: project.id } } })),
    onSuccess: async () => {
      await navigate({ to: "/" });
      void queries.invalidateQueries({ queryKey: ["projects"] });
      notifications.show({ message: `${project.name} is being deleted.` });
    },
    onError: complain,
  });
  const submit = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    const fields = new FormData(event.currentTarget);
    const said = (field: string) => String(fields.get(field) ?? "").trim();
    const wish: Schemas["ChangeProject"] = {};
    if (name !== project.name) wish.name = name;
    if (size !== project.size) wish.size = size as Schemas["Size"];
    if (said("description") !== (project.description ?? "")) wish.description = said("description") || null;
    if (said("startCommand") !== (project.startCommand ?? "")) wish.startCommand = said("startCommand") || null;
    if (from === "image") {
      if (said("image") !== project.image) wish.image = said("image");
    } else if (from !== project.template) {
      wish.template = from;
    }
    if (Object.keys(wish).length > 0) change.mutate(wish);
  };
  return (
    <div className="pad">
      <form onSubmit={submit} className="section" aria-label="Settings">
        <fieldset disabled={!changes} className="plain">
        <Stack gap="sm">
          <Title order={2}>Settings</Title>
          {!changes && <Text size="sm">You are {project.role} here; changing these takes an admin of the project.</Text>}
          {change.isError && (
            <Alert color="red" role="alert" py="xs">
              {sentence(change.error)}
            </Alert>
          )}
          <TextInput label="Name" value={name} onChange={(event) => setName(event.currentTarget.value)} error={name === project.name ? undefined : nameProblem(name)} spellCheck={false} />
          <TextInput name="description" label="Description" defaultValue={project.description ?? ""} maxLength={500} />
          <TextInput name="startCommand" label="Start command" description="Runs when the sandbox starts, and again when it ends." defaultValue={project.startCommand ?? ""} placeholder="npm run dev" spellCheck={false} />
          <SimpleGrid cols={{ base: 1, xs: 2 }} spacing="sm">
            <Select label="Size" disabled={!changes} allowDeselect={false} value={size} onChange={(value) => value && setSize(value)} data={sizes} />
            <Select label="Made from" disabled={!changes} allowDeselect={false} value={from} onChange={(value) => value && setFrom(value)} data={sources} />
          </SimpleGrid>
          {from === "image" && <TextInput name="image" label="Image" defaultValue={project.image ?? ""} required withAsterisk={false} spellCheck={false} />}
          <Text size="xs" c="dimmed">
            Size, image and start command reach a running sandbox by a restart, at once.
          </Text>
          {changes && (
            <div>
              <Button type="submit" loading={change.isPending}>
                Save
              </Button>
            </div>
          )}
        </Stack>
        </fieldset>
      </form>
      <Sharing project={project} />
      <section className="section">
        <Title order={2} mb="xs">
          Facts
        </Title>
        <dl className="facts">
          <dt>Owner</dt>
          <dd>{project.ownerLogin}</dd>
          <dt>Region</dt>
          <dd>{project.region}</dd>
          <dt>Repository</dt>
          <dd>{project.repository ? `${project.repository.url}${project.repository.branch ? ` (${project.repository.branch})` : ""}` : "none"}</dd>
          <dt>Sandbox</dt>
          <dd>{project.sandbox?.name ?? "none"}</dd>
          <dt>Project id</dt>
          <dd>{project.id}</dd>
          <dt>Created</dt>
          <dd>{at(project.createdAt)}</dd>
        </dl>
      </section>
      {may(project.role, "owner") && (
        <section className="section">
          <Title order={2} mb="xs">
            Delete
          </Title>
          <Text size="sm" mb="sm">
            Deletes the sandbox, its files and its database, for good.
          </Text>
          <Button color="red" variant="outline" onClick={() => setDeleting(true)}>
            Delete this project
          </Button>
        </section>
      )}
      <Modal opened={deleting} onClose={() => setDeleting(false)} title={`Delete ${project.name}?`}>
        <form
          onSubmit={(event) => {
            event.preventDefault();
            if (typed === project.name) remove.mutate();
          }}
        >
          <TextInput data-autofocus label={`Type ${project.name} to delete it with its files and its database`} value={typed} onChange={(event) => setTyped(event.currentTarget.value)} autoComplete="off" spellCheck={false} />
          <Group justify="flex-end" mt="md">
            <Button variant="default" onClick={() => setDeleting(false)}>
              Cancel
            </Button>
            <Button type="submit" color="red" disabled={typed !== project.name} loading={remove.isPending}>
              Delete
            </Button>
          </Group>
        </form>
      </Modal>
    </div>
  );
}
