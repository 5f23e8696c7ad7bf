// The page's own question before something that cannot be taken back.
import { Button, Group, Modal, Text } from "@mantine/core";

export interface Question {
  title: string;
  text: string;
  /** What the button says that does it. */
  act: string;
  run: () => void;
}

export function Confirm({ question, close }: { question: Question | undefined; close: () => void }) {
  return (
    <Modal opened={question !== undefined} onClose={close} title={question?.title}>
      <Text size="sm">{question?.text}</Text>
      <Group justify="flex-end" mt="md">
        <Button variant="default" data-autofocus onClick={close}>
          Cancel
        </Button>
        <Button
          color="red"
          onClick={() => {
            close();
            question?.run();
          }}
        >
          {question?.act}
        </Button>
      </Group>
    </Modal>
  );
}
