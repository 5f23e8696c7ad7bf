// What one user may have at the same time: the server's limits for everybody, or their own.
import { Alert, Button, Group, Modal, SimpleGrid, Switch, Text, TextInput } from "@mantine/core";
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { type FormEvent, useState } from "react";
import { type Schemas, type User, api, data, sentence } from "../../api/client";
import { kinds, limitsOf, useOf, usedOf } from "../../logic/limits";

export function Limits({ user, close }: { user: User; close: () => void }) {
  const queries = useQueryClient();
  const [own, setOwn] = useState(user.ownLimits ?? false);
  const [wrong, setWrong] = useState(false);
  const save = useMutation({
    mutationFn: (limits: Schemas["Limits"] | null) =>
      data(api.PATCH("/api/users/{user}", { params: { path: { user: user.id } }, body: { limits } })),
    onSuccess: async () => {
      await queries.invalidateQueries({ queryKey: ["users"] });
      close();
    },
  });
  const submit = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    if (!own) return save.mutate(null);
    const limits = limitsOf(Object.fromEntries([...new FormData(event.currentTarget)].map(([key, value]) => [key, String(value)])));
    setWrong(!limits);
    if (limits) save.mutate(limits);
  };
  return (
    <Modal opened onClose={close} title={`Limits of ${user.login}`}>
      <form onSubmit={submit}>
        {save.isError && (
          <Alert color="red" role="alert" py="xs" mb="sm">
            {sentence(save.error)}
          </Alert>
        )}
        {wrong && (
          <Alert color="red" role="alert" py="xs" mb="sm">
            A limit is a whole number, or empty for none.
          </Alert>
        )}
        <Switch label="Limits of their own" checked={own} onChange={(event) => setOwn(event.currentTarget.checked)} mb="sm" />
        <SimpleGrid cols={{ base: 1, xs: 2 }} spacing="sm">
          {kinds.map(({ key, label, unit }) => {
            const use = useOf(user.used, key);
            return (
              <TextInput
                key={key}
                name={key}
                label={label}
                description={use === undefined ? undefined : `Has ${usedOf(use, undefined, unit)}`}
                inputWrapperOrder={["label", "input", "description", "error"]}
                placeholder="no limit"
                inputMode="numeric"
                disabled={!own}
                defaultValue={user.limits?.[key] ?? ""}
              />
            );
          })}
        </SimpleGrid>
        <Text size="xs" c="dimmed" mt="sm">
          {own ? "What they have already stays when a limit becomes less." : "They have what the server's settings let everybody have."}
        </Text>
        <Group justify="flex-end" mt="md">
          <Button variant="default" onClick={close}>
            Cancel
          </Button>
          <Button type="submit" loading={save.isPending}>
            Save
          </Button>
        </Group>
      </form>
    </Modal>
  );
}
