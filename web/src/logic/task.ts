// Labels of agent tasks: finished states, and the text of a transcript step. Pure.
import type { Schemas } from "../api/client";

type Task = Schemas["Task"];
/** The part of a step that is shown. The API document types `data` as any object. */
type StepContent = { kind: Schemas["TaskStep"]["kind"]; data: object };

/** Characters of a tool's input or output that are shown. */
const maxText = 600;

export const isFinished = (state: Task["state"]) => state === "succeeded" || state === "failed" || state === "cancelled";

/** The text of a step. */
export function stepText({ kind, data }: StepContent): string {
  const text = (name: string) => {
    const value = (data as Record<string, unknown>)[name];
    const full = typeof value === "string" ? value : value === undefined || value === null ? "" : JSON.stringify(value);
    return full.length > maxText ? `${full.slice(0, maxText)}…` : full;
  };
  switch (kind) {
    case "started":
      return text("model") ? `Started with model ${text("model")}.` : "Started.";
    case "toolCall":
      return `${text("name")} ${text("input")}`;
    case "toolResult":
      return `→ ${text("output")}`;
    default:
      return text("text");
  }
}
