// Dialog for the limits of a user: the server's defaults, or custom limits.
import { Alert, Button, Group, Modal, SimpleGrid, Switch, Text, TextInput } from "@mantine/core";
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { type FormEvent, useState } from "react";
import { type Schemas, type User, api, data, errorMessage } from "../../api/client";
import { formatUsage, limitFields, parseLimits, usageOf } from "../../logic/limits";

export function Limits({ user, close }: { user: User; close: () => void }) {
  const queries = useQueryClient();
  const [custom, setCustom] = useState(user.ownLimits ?? false);
  const [invalid, setInvalid] = useState(false);
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
    if (!custom) return save.mutate(null);
    const limits = parseLimits(Object.fromEntries([...new FormData(event.currentTarget)].map(([key, value]) => [key, String(value)])));
    setInvalid(!limits);
    if (limits) save.mutate(limits);
  };
  return (
    <Modal opened onClose={close} title={`Limits for ${user.login}`}>
      <form onSubmit={submit}>
        {save.isError && (
          <Alert color="red" role="alert" py="xs" mb="sm">
            {errorMessage(save.error)}
          </Alert>
        )}
        {invalid && (
          <Alert color="red" role="alert" py="xs" mb="sm">
            Enter a whole number, or leave the field empty for no limit.
          </Alert>
        )}
        <Switch label="Custom limits" checked={custom} onChange={(event) => setCustom(event.currentTarget.checked)} mb="sm" />
        <SimpleGrid cols={{ base: 1, xs: 2 }} spacing="sm">
          {limitFields.map(({ key, label, unit }) => {
            const usage = usageOf(user.used, key);
            return (
              <TextInput
                key={key}
                name={key}
                label={label}
                description={usage === undefined ? undefined : `In usage: ${formatUsage(usage, undefined, unit)}`}
                inputWrapperOrder={["label", "input", "description", "error"]}
                placeholder="No limit"
                inputMode="numeric"
                disabled={!custom}
                defaultValue={user.limits?.[key] ?? ""}
              />
            );
          })}
        </SimpleGrid>
        <Text size="xs" c="dimmed" mt="sm">
          {custom ? "Lowering a limit does not remove anything that exists." : "The default limits of the server apply."}
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
