// Settings of a project, its details, and its deletion.
import { Alert, Button, Group, Modal, Select, SimpleGrid, Stack, Text, TextInput, Title } from "@mantine/core";
import { notifications } from "@mantine/notifications";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useNavigate, useParams } from "@tanstack/react-router";
import { type FormEvent, useState } from "react";
import { type ProjectInBranch, type Schemas, api, data, errorMessage } from "../../api/client";
import { inBranch, me, notifyError, project as projectQuery } from "../../api/queries";
import { branchReference, mainBranch, parseReference } from "../../logic/branch";
import { nameProblem } from "../../logic/name";
import { sizes, templates } from "../../logic/projectOptions";
import { hasRole } from "../../logic/role";
import { formatDateTime } from "../../logic/time";
import { discardUnsavedOf } from "../../logic/unsaved";
import { Sharing } from "./Sharing";

export default function Settings({ project }: { project: ProjectInBranch }) {
  const queries = useQueryClient();
  const navigate = useNavigate();
  const { project: slug } = useParams({ from: "/authenticated/p/$project" });
  const user = useQuery(me).data?.id;
  const [name, setName] = useState(project.name);
  const [size, setSize] = useState<string>(project.size);
  const [template, setTemplate] = useState<string>(project.image ? "image" : (project.template ?? "web"));
  const canEdit = hasRole(project.role, "admin");
  const [deleting, setDeleting] = useState(false);
  const [typed, setTyped] = useState("");
  const change = useMutation({
    mutationFn: (body: Schemas["ChangeProject"]) =>
      data(api.PATCH("/api/projects/{project}", { params: { path: { project: project.id } }, body })),
    onSuccess: async (after) => {
      notifications.show({ message: "Settings saved." });
      if (project.branch === mainBranch) queries.setQueryData(projectQuery(after.name).queryKey, inBranch(after, mainBranch));
      if (after.name !== project.name && parseReference(slug).project === project.name) {
        await navigate({ to: "/p/$project", params: { project: branchReference(after.name, project.branch) }, search: { view: "settings" }, replace: true });
      }
      void queries.invalidateQueries({ queryKey: ["projects"] });
    },
  });
  const remove = useMutation({
    mutationFn: () => data(api.DELETE("/api/projects/{project}", { params: { path: { project: project.id } } })),
    onSuccess: async () => {
      if (user !== undefined) discardUnsavedOf(localStorage, user, project.id);
      await navigate({ to: "/" });
      void queries.invalidateQueries({ queryKey: ["projects"] });
      notifications.show({ message: `Deleting ${project.name}…` });
    },
    onError: notifyError,
  });
  const submit = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    const fields = new FormData(event.currentTarget);
    const field = (key: string) => String(fields.get(key) ?? "").trim();
    const body: Schemas["ChangeProject"] = {};
    if (name !== project.name) body.name = name;
    if (size !== project.size) body.size = size as Schemas["Size"];
    if (field("description") !== (project.description ?? "")) body.description = field("description") || null;
    if (field("startCommand") !== (project.startCommand ?? "")) body.startCommand = field("startCommand") || null;
    if (template === "image") {
      if (field("image") !== project.image) body.image = field("image");
    } else if (template !== project.template) {
      body.template = template;
    }
    if (Object.keys(body).length > 0) change.mutate(body);
  };
  return (
    <div className="pad">
      <form onSubmit={submit} className="section" aria-label="Settings">
        <fieldset disabled={!canEdit} className="plain">
        <Stack gap="sm">
          <Title order={2}>Settings</Title>
          {project.branch !== mainBranch && <Text size="sm">The settings apply to all branches of the project.</Text>}
          {!canEdit && <Text size="sm">You have the {project.role} role. Changing settings requires the admin role.</Text>}
          {change.isError && (
            <Alert color="red" role="alert" py="xs">
              {errorMessage(change.error)}
            </Alert>
          )}
          <TextInput label="Name" value={name} onChange={(event) => setName(event.currentTarget.value)} error={name === project.name ? undefined : nameProblem(name)} spellCheck={false} />
          <TextInput name="description" label="Description" defaultValue={project.description ?? ""} maxLength={500} />
          <TextInput name="startCommand" label="Start command" description="Runs when the sandbox starts, and is restarted when it exits." defaultValue={project.startCommand ?? ""} placeholder="npm run dev" spellCheck={false} />
          <SimpleGrid cols={{ base: 1, xs: 2 }} spacing="sm">
            <Select label="Size" disabled={!canEdit} allowDeselect={false} value={size} onChange={(value) => value && setSize(value)} data={sizes} />
            <Select label="Template" disabled={!canEdit} allowDeselect={false} value={template} onChange={(value) => value && setTemplate(value)} data={templates} />
          </SimpleGrid>
          {template === "image" && <TextInput name="image" label="Image" defaultValue={project.image ?? ""} required withAsterisk={false} spellCheck={false} />}
          <Text size="xs" c="dimmed">
            Changing the size, image or start command restarts a running sandbox immediately.
          </Text>
          {canEdit && (
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
          Details
        </Title>
        <dl className="facts">
          <dt>Owner</dt>
          <dd>{project.ownerLogin}</dd>
          <dt>Region</dt>
          <dd>{project.region}</dd>
          <dt>Repository</dt>
          <dd>{project.repository ? `${project.repository.url}${project.repository.branch ? ` (${project.repository.branch})` : ""}` : "None"}</dd>
          <dt>Branch</dt>
          <dd>{project.branch}</dd>
          <dt>Sandbox</dt>
          <dd>{project.sandbox?.name ?? "None"}</dd>
          <dt>Project ID</dt>
          <dd>{project.id}</dd>
          <dt>Created</dt>
          <dd>{formatDateTime(project.createdAt)}</dd>
        </dl>
      </section>
      {hasRole(project.role, "owner") && (
        <section className="section">
          <Title order={2} mb="xs">
            Delete project
          </Title>
          <Text size="sm" mb="sm">
            Permanently deletes all branches with their sandboxes, files and databases.
          </Text>
          <Button color="red" variant="outline" onClick={() => setDeleting(true)}>
            Delete project
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
          <TextInput data-autofocus label={`Type ${project.name} to delete the project with its files and database`} value={typed} onChange={(event) => setTyped(event.currentTarget.value)} autoComplete="off" spellCheck={false} />
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
