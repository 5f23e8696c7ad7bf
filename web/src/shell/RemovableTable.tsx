// Table whose rows can be removed after a confirmation.
import { ActionIcon, Button, Table } from "@mantine/core";
import { IconTrash } from "@tabler/icons-react";
import { type ReactNode, useState } from "react";
import { Confirm, type Confirmation } from "./Confirm";

export interface RemoveAction {
  /** Accessible name of the button, and its tooltip if it has a text. */
  label: string;
  /** Text of the button instead of the trash icon, where the icon would not be clear. */
  buttonText?: string;
  confirmation: Confirmation;
}

interface Props<T> {
  rows: readonly T[];
  id: (row: T) => string;
  /** `Table.Td` elements. */
  cells: (row: T) => ReactNode;
  /** How the row is removed; undefined if it cannot be. */
  removeAction: (row: T) => RemoveAction | undefined;
  layout?: "fixed";
  /** Width of the button column, in pixels. */
  actionWidth?: number;
  className?: string;
}

export function RemovableTable<T>({ rows, id, cells, removeAction, layout, actionWidth = 44, className = "" }: Props<T>) {
  const [confirmation, setConfirmation] = useState<Confirmation>();
  return (
    <>
      <Confirm confirmation={confirmation} close={() => setConfirmation(undefined)} />
      <div className={`panel ${className}`} tabIndex={className === "scroll" ? 0 : undefined} style={{ marginBottom: 12 }}>
        <Table layout={layout}>
          <Table.Tbody>
            {rows.map((row) => (
              <Table.Tr key={id(row)}>
                {cells(row)}
                <Table.Td w={actionWidth} ta="right">
                  <RemoveButton action={removeAction(row)} confirm={setConfirmation} />
                </Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
      </div>
    </>
  );
}

function RemoveButton({ action, confirm }: { action: RemoveAction | undefined; confirm: (confirmation: Confirmation) => void }) {
  if (!action) return null;
  const { label, buttonText, confirmation } = action;
  if (!buttonText) {
    return (
      <ActionIcon aria-label={label} onClick={() => confirm(confirmation)}>
        <IconTrash size={15} />
      </ActionIcon>
    );
  }
  return (
    <Button variant="subtle" color="red" size="compact-xs" title={label} onClick={() => confirm(confirmation)}>
      {buttonText}
    </Button>
  );
}
