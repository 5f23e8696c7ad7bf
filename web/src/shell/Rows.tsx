// A table of things of which each can be taken away, after a question.
import { ActionIcon, Button, Table } from "@mantine/core";
import { IconTrash } from "@tabler/icons-react";
import { type ReactNode, useState } from "react";
import { Confirm, type Question } from "./Confirm";

export interface Away {
  /** What the button does, for those who do not see the bin on it. */
  label: string;
  /** Said on the button instead, where a bin would not be understood. */
  word?: string;
  question: Question;
}

interface Props<T> {
  rows: readonly T[];
  id: (row: T) => string;
  /** `Table.Td` elements. */
  cells: (row: T) => ReactNode;
  /** How the row is taken away; nothing where it cannot be. */
  away: (row: T) => Away | undefined;
  layout?: "fixed";
  /** Of the column with the buttons, in pixels. */
  width?: number;
  className?: string;
}

export function Rows<T>({ rows, id, cells, away, layout, width = 44, className = "" }: Props<T>) {
  const [question, setQuestion] = useState<Question>();
  return (
    <>
      <Confirm question={question} close={() => setQuestion(undefined)} />
      <div className={`panel ${className}`} tabIndex={className === "scroll" ? 0 : undefined} style={{ marginBottom: 12 }}>
        <Table layout={layout}>
          <Table.Tbody>
            {rows.map((row) => (
              <Table.Tr key={id(row)}>
                {cells(row)}
                <Table.Td w={width} ta="right">
                  <Take away={away(row)} ask={setQuestion} />
                </Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
      </div>
    </>
  );
}

function Take({ away, ask }: { away: Away | undefined; ask: (question: Question) => void }) {
  if (!away) return null;
  const { label, word, question } = away;
  if (!word) {
    return (
      <ActionIcon aria-label={label} onClick={() => ask(question)}>
        <IconTrash size={15} />
      </ActionIcon>
    );
  }
  return (
    <Button variant="subtle" color="red" size="compact-xs" title={label} onClick={() => ask(question)}>
      {word}
    </Button>
  );
}
