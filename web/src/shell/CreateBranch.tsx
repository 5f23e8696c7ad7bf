// Dialog that creates a branch as a copy of the current one as it is, or of one of its snapshots.
import { Alert, Button, Group, Modal, Select, Stack, Text, TextInput } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { type FormEvent, useState } from "react";
import { ApiError, type ProjectInBranch, errorMessage } from "../api/client";
import { snapshots, useCreateBranch } from "../api/queries";
import { branchNameRule, maxBranchNameLength } from "../logic/branch";
import { nameProblem, suggestName } from "../logic/name";
import { snapshotTitle } from "../logic/snapshots";

interface Props {
  project: ProjectInBranch;
  initialName: string;
  close: () => void;
  created: (name: string) => void;
}

export function CreateBranch({ project, initialName, close, created }: Props) {
  const ready = (useQuery(snapshots(project.reference)).data ?? []).filter(({ state }) => state === "ready");
  const [name, setName] = useState(initialName);
  const [touched, setTouched] = useState(initialName !== "");
  const [source, setSource] = useState(project.branch);
  const create = useCreateBranch();
  const problem = touched ? nameProblem(name, maxBranchNameLength) : undefined;
  const suggestion = problem && name ? suggestName(name, maxBranchNameLength) : "";
  const nameIsRefused = create.error instanceof ApiError && create.error.field?.name === "name";

  const submit = (event: FormEvent) => {
    event.preventDefault();
    setTouched(true);
    if (nameProblem(name, maxBranchNameLength)) return;
    create.mutate(
      { project: project.id, name, from: source },
      {
        onSuccess: (branch) => {
          close();
          created(branch.name);
        },
      },
    );
  };
  return (
    <Modal opened onClose={close} title="New branch">
      <form onSubmit={submit}>
        <Stack gap="sm">
          {create.isError && !nameIsRefused && (
            <Alert color="red" role="alert" py="xs">
              {errorMessage(create.error)}
            </Alert>
          )}
          <TextInput
            data-autofocus
            label="Branch name"
            description={branchNameRule}
            value={name}
            onChange={(event) => {
              setName(event.currentTarget.value);
              setTouched(true);
              create.reset();
            }}
            error={problem ?? (nameIsRefused ? errorMessage(create.error) : undefined)}
            autoComplete="off"
            spellCheck={false}
          />
          {suggestion && suggestion !== name && !nameProblem(suggestion, maxBranchNameLength) && (
            <Text size="xs">
              Did you mean{" "}
              <Button variant="default" size="compact-xs" onClick={() => setName(suggestion)}>
                {suggestion}
              </Button>
              ?
            </Text>
          )}
          <Select
            label="Source"
            allowDeselect={false}
            searchable={ready.length > 10}
            value={source}
            onChange={(value) => value && setSource(value)}
            data={[
              { group: "Branch", items: [{ value: project.branch, label: `${project.branch}, as it is now` }] },
              ...(ready.length > 0 ? [{ group: `Snapshots of ${project.branch}`, items: ready.map((one) => ({ value: one.id, label: snapshotTitle(one) })) }] : []),
            ]}
          />
          <Text size="xs" c="dimmed">
            The branch gets a sandbox with a copy of the files and the database. Programs and terminals are not copied.
          </Text>
          <Group justify="flex-end">
            <Button variant="default" onClick={close}>
              Cancel
            </Button>
            <Button type="submit" loading={create.isPending}>
              Create branch
            </Button>
          </Group>
        </Stack>
      </form>
    </Modal>
  );
}
