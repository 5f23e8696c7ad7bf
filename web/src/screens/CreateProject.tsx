// Dialog that creates a project. The name is validated while it is typed.
import { Alert, Button, Collapse, Group, Modal, Select, SimpleGrid, Stack, Text, TextInput, Textarea } from "@mantine/core";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { type FormEvent, useState } from "react";
import { ApiError, type Schemas, api, data, errorMessage } from "../api/client";
import { images, inBranch, project as projectQuery, regions } from "../api/queries";
import { mainBranch } from "../logic/branch";
import { parseDotenv } from "../logic/dotenv";
import { nameProblem, nameRule, suggestName } from "../logic/name";
import { sizes, templates } from "../logic/projectOptions";

const regionKinds: Record<string, string> = { local: "this server", kubernetes: "Kubernetes" };

function regionLabel({ name, kind, healthy }: Schemas["RegionInfo"]): string {
  return `${name} (${regionKinds[kind] ?? kind}${healthy ? "" : ", unavailable"})`;
}

export default function CreateProject({ close }: { close: () => void }) {
  const queries = useQueryClient();
  const navigate = useNavigate();
  const imported = useQuery(images).data?.items ?? [];
  const allRegions = useQuery(regions).data?.items ?? [];
  const [region, setRegion] = useState<string>();
  const [name, setName] = useState("");
  const [touched, setTouched] = useState(false);
  const [template, setTemplate] = useState("web");
  const [image, setImage] = useState("");
  const [size, setSize] = useState<string>("small");
  const [advanced, setAdvanced] = useState(false);
  const [variables, setVariables] = useState("");
  const parsed = parseDotenv(variables);
  const problem = touched ? nameProblem(name) : undefined;
  const suggestion = problem && name ? suggestName(name) : "";

  const create = useMutation({
    mutationFn: (body: Schemas["CreateProject"]) => data(api.POST("/api/projects", { body })),
    onSuccess: async (project) => {
      queries.setQueryData(projectQuery(project.name).queryKey, inBranch(project, mainBranch));
      void queries.invalidateQueries({ queryKey: ["projects"] });
      close();
      await navigate({ to: "/p/$project", params: { project: project.name } });
    },
  });
  const invalidField = create.error instanceof ApiError ? create.error.field : undefined;

  const submit = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    setTouched(true);
    if (nameProblem(name) || parsed.problems.length > 0) return;
    const fields = new FormData(event.currentTarget);
    const field = (key: string) => String(fields.get(key) ?? "").trim() || undefined;
    const url = field("repository");
    const branch = field("branch");
    create.mutate({
      name,
      ...(field("description") && { description: field("description") }),
      ...(template === "image" ? { image: image.trim() } : { template: template }),
      size: size as Schemas["Size"],
      ...(region && { region }),
      ...(url && { repository: { url, ...(branch && { branch }) } }),
      ...(field("startCommand") && { startCommand: field("startCommand") }),
      ...(Object.keys(parsed.variables).length > 0 && { envVars: parsed.variables }),
    });
  };

  return (
    <Modal opened onClose={close} title="New project" size="lg">
      <form onSubmit={submit}>
        <Stack gap="sm">
          {create.isError && invalidField?.name !== "name" && (
            <Alert color="red" role="alert" py="xs">
              {errorMessage(create.error)}
            </Alert>
          )}
          <TextInput
            data-autofocus
            label="Name"
            description={nameRule}
            placeholder="my-app"
            value={name}
            onChange={(event) => {
              setName(event.currentTarget.value);
              setTouched(true);
              create.reset();
            }}
            error={problem ?? (invalidField?.name === "name" || (create.error instanceof ApiError && create.error.status === 409) ? errorMessage(create.error) : undefined)}
            autoComplete="off"
            spellCheck={false}
          />
          {suggestion && suggestion !== name && !nameProblem(suggestion) && (
            <Text size="xs">
              Did you mean{" "}
              <Button variant="default" size="compact-xs" onClick={() => setName(suggestion)}>
                {suggestion}
              </Button>
              ?
            </Text>
          )}
          <SimpleGrid cols={{ base: 1, xs: 2 }} spacing="sm">
            <Select
              label="Template"
              allowDeselect={false}
              value={template}
              onChange={(value) => value && setTemplate(value)}
              data={templates}
            />
            <Select label="Size" allowDeselect={false} value={size} onChange={(value) => value && setSize(value)} data={sizes} />
          </SimpleGrid>
          {allRegions.length > 1 && (
            <Select
              label="Region"
              allowDeselect={false}
              value={region ?? allRegions.find((one) => one.default)?.name ?? null}
              onChange={(value) => value && setRegion(value)}
              data={allRegions.map((one) => ({ value: one.name, label: regionLabel(one) }))}
            />
          )}
          {template === "image" && (
            <TextInput
              label="Image"
              description={
                imported.length > 0 ? `Imported images: ${imported.map((one) => one.name).join(", ")}` : "An image reference, or the name of an imported image."
              }
              required
              withAsterisk={false}
              value={image}
              onChange={(event) => setImage(event.currentTarget.value)}
            />
          )}
          <TextInput name="repository" label="Git repository" description="Cloned before the first start." placeholder="https://github.com/owner/repository" type="url" />
          <div>
            <Button variant="subtle" color="gray" px={4} onClick={() => setAdvanced(!advanced)} aria-expanded={advanced}>
              {advanced ? "Hide advanced settings" : "Show advanced settings"}
            </Button>
          </div>
          <Collapse expanded={advanced}>
            <Stack gap="sm">
              <TextInput name="description" label="Description" maxLength={500} />
              <TextInput name="branch" label="Branch" placeholder="Default branch" />
              <TextInput name="startCommand" label="Start command" placeholder="npm run dev" />
              <Textarea
                label="Environment variables"
                description="Paste a .env file."
                value={variables}
                onChange={(event) => setVariables(event.currentTarget.value)}
                rows={4}
                spellCheck={false}
                styles={{ input: { fontFamily: "var(--mantine-font-family-monospace)" } }}
                error={parsed.problems[0] && `Line ${parsed.problems[0].line}: ${parsed.problems[0].reason}.`}
              />
            </Stack>
          </Collapse>
          <Group justify="flex-end" mt="xs">
            <Button variant="default" onClick={close}>
              Cancel
            </Button>
            <Button type="submit" loading={create.isPending}>
              Create project
            </Button>
          </Group>
        </Stack>
      </form>
    </Modal>
  );
}
