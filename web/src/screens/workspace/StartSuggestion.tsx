// Suggested start command of a project that has none, with a button that sets it.
import { Button, Code, Stack, Text } from "@mantine/core";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { type ProjectInBranch, api, data } from "../../api/client";
import { notifyError, startSuggestion } from "../../api/queries";
import { hasRole } from "../../logic/role";

export function StartSuggestion({ project }: { project: ProjectInBranch }) {
  const queries = useQueryClient();
  const wanted = !project.startCommand && project.sandbox?.status === "RUNNING" && hasRole(project.role, "admin");
  const suggestion = useQuery({ ...startSuggestion(project.reference), enabled: wanted }).data;
  const use = useMutation({
    mutationFn: (startCommand: string) =>
      data(api.PATCH("/api/projects/{project}", { params: { path: { project: project.id } }, body: { startCommand } })),
    onSettled: () => queries.invalidateQueries({ queryKey: ["project", project.id] }),
    onError: notifyError,
  });
  const command = suggestion?.command;
  if (!wanted || !command) return null;
  return (
    <Stack gap="xs" align="center" maw={520}>
      <Text size="sm">Suggested start command, from {suggestion.file}:</Text>
      <Code style={{ overflowWrap: "anywhere" }}>{command}</Code>
      <Button size="xs" variant="default" loading={use.isPending} onClick={() => use.mutate(command)}>
        Use
      </Button>
    </Stack>
  );
}
