// Confirmation dialog before an action that cannot be undone.
import { Button, Group, Modal, Text } from "@mantine/core";

export interface Confirmation {
  title: string;
  text: string;
  /** Label of the confirm button. */
  action: string;
  run: () => void;
}

export function Confirm({ confirmation, close }: { confirmation: Confirmation | undefined; close: () => void }) {
  return (
    <Modal opened={confirmation !== undefined} onClose={close} title={confirmation?.title}>
      <Text size="sm">{confirmation?.text}</Text>
      <Group justify="flex-end" mt="md">
        <Button variant="default" data-autofocus onClick={close}>
          Cancel
        </Button>
        <Button
          color="red"
          onClick={() => {
            close();
            confirmation?.run();
          }}
        >
          {confirmation?.action}
        </Button>
      </Group>
    </Modal>
  );
}
