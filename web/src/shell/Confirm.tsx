// Confirmation dialog before an action that cannot be undone.
import { Button, Group, Modal, Text } from "@mantine/core";
import { type ReactNode, useCallback, useRef, useState } from "react";

export interface Confirmation {
  title: string;
  text: string;
  /** Label of the confirm button. */
  action: string;
  run: () => void;
}

export type Question = Omit<Confirmation, "run">;

export function Confirm({ confirmation, close }: { confirmation: Confirmation | undefined; close: () => void }) {
  const last = useRef(confirmation);
  if (confirmation) last.current = confirmation;
  // While the dialog fades out its text stays.
  const shown = confirmation ?? last.current;
  return (
    <Modal opened={confirmation !== undefined} onClose={close} title={shown?.title}>
      <Text size="sm" style={{ overflowWrap: "anywhere" }}>
        {shown?.text}
      </Text>
      <Group justify="flex-end" mt="md">
        <Button variant="default" data-autofocus onClick={close}>
          Cancel
        </Button>
        <Button
          color="red"
          onClick={() => {
            confirmation?.run();
            close();
          }}
        >
          {shown?.action}
        </Button>
      </Group>
    </Modal>
  );
}

/** A dialog, and a function that asks a question with it and returns whether the user agreed. */
export function useConfirm(): [ReactNode, (question: Question) => Promise<boolean>] {
  const [asked, setAsked] = useState<Question & { answer: (yes: boolean) => void }>();
  const ask = useCallback((question: Question) => new Promise<boolean>((answer) => setAsked({ ...question, answer })), []);
  const close = () => {
    // After an answer this has no effect.
    asked?.answer(false);
    setAsked(undefined);
  };
  return [<Confirm key="confirm" confirmation={asked && { ...asked, run: () => asked.answer(true) }} close={close} />, ask];
}
