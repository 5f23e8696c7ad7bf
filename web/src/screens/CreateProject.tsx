// The dialog that makes a project. The rule of a name is said while it is typed.
import { Alert, Button, Collapse, Group, Modal, Select, SimpleGrid, Stack, Text, TextInput, Textarea } from "@mantine/core";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { type FormEvent, useState } from "react";
import { ApiError, type Schemas, api, data, sentence } from "../api/client";
import { images, regions } from "../api/queries";
import { parseDotenv } from "../logic/dotenv";
import { nameProblem, nameRule, suggestName } from "../logic/name";
import { sizes, sources } from "../logic/sizes";

const grounds: Record<string, string> = { local: "this server", kubernetes: "Kubernetes" };

function placed({ name, kind, healthy }: Schemas["RegionInfo"]): string {
  return `${name}: ${grounds[kind] ?? kind}${healthy ? "" : ", does not answer"}`;
}

export default function CreateProject({ close }: { close: () => void }) {
  const queries = useQueryClient();
  const navigate = useNavigate();
  const known = useQuery(images).data?.items ?? [];
  const places = useQuery(regions).data?.items ?? [];
  const [region, setRegion] = useState<string>();
  const [name, setName] = useState("");
  const [touched, setTouched] = useState(false);
  const [from, setFrom] = useState("web");
  const [image, setImage] = useState("");
  const [size, setSize] = useState<string>("small");
  const [more, setMore] = useState(false);
  const [variables, setVariables] = useState("");
  const parsed = parseDotenv(variables);
  const problem = touched ? nameProblem(name) : undefined;
  const suggestion = problem && name ? suggestName(name) : "";

  const create = useMutation({
    mutationFn: (body: Schemas["CreateProject"]) => data(api.POST("/api/projects", { body })),
    onSuccess: async (project) => {
      queries.setQueryData(["projects", project.name], project);
      void queries.invalidateQueries({ queryKey: ["projects"] });
      close();
      await navigate({ to: "/p/$project", params: { project: project.name } });
    },
  });
  const refusedField = create.error instanceof ApiError ? create.error.field : undefined;

  const submit = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    setTouched(true);
    if (nameProblem(name) || parsed.problems.length > 0) return;
    const fields = new FormData(event.currentTarget);
    const said = (field: string) => String(fields.get(field) ?? "").trim() || undefined;
    const url = said("repository");
    const branch = said("branch");
    create.mutate({
      name,
      ...(said("description") && { description: said("description") }),
      ...(from === "image" ? { image: image.trim() } : { template: from }),
      size: size as Schemas["Size"],
      ...(region && { region }),
      ...(url && { repository: { url, ...(branch && { branch }) } }),
      ...(said("startCommand") && { startCommand: said("startCommand") }),
      ...(Object.keys(parsed.variables).length > 0 && { envVars: parsed.variables }),
    });
  };

  return (
    <Modal opened onClose={close} title="New project" size="lg">
      <form onSubmit={submit}>
        <Stack gap="sm">
          {create.isError && refusedField?.name !== "name" && (
            <Alert color="red" role="alert" py="xs">
              {sentence(create.error)}
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
            error={problem ?? (refusedField?.name === "name" || (create.error instanceof ApiError && create.error.status === 409) ? sentence(create.error) : undefined)}
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
              label="Made from"
              allowDeselect={false}
              value={from}
              onChange={(value) => value && setFrom(value)}
              data={sources}
            />
            <Select label="Size" allowDeselect={false} value={size} onChange={(value) => value && setSize(value)} data={sizes} />
          </SimpleGrid>
          {places.length > 1 && (
            <Select
              label="Region"
              allowDeselect={false}
              value={region ?? places.find((place) => place.default)?.name ?? null}
              onChange={(value) => value && setRegion(value)}
              data={places.map((place) => ({ value: place.name, label: placed(place) }))}
            />
          )}
          {from === "image" && (
            <TextInput
              label="Image"
              description={
                known.length > 0 ? `Known here: ${known.map((one) => one.name).join(", ")}` : "A reference, or the name that it was imported under."
              }
              required
              withAsterisk={false}
              value={image}
              onChange={(event) => setImage(event.currentTarget.value)}
            />
          )}
          <TextInput name="repository" label="Git repository" placeholder="https://… (cloned before the first start)" type="url" />
          <div>
            <Button variant="subtle" color="gray" px={4} onClick={() => setMore(!more)} aria-expanded={more}>
              {more ? "Fewer settings" : "More settings"}
            </Button>
          </div>
          <Collapse expanded={more}>
            <Stack gap="sm">
              <TextInput name="description" label="Description" maxLength={500} />
              <TextInput name="branch" label="Branch" placeholder="the repository's own" />
              <TextInput name="startCommand" label="Start command" placeholder="npm run dev" />
              <Textarea
                label="Variables"
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
              Create
            </Button>
          </Group>
        </Stack>
      </form>
    </Modal>
  );
}
