// What a task's states and steps are called. Pure.
import type { Schemas } from "../api/client";

type Task = Schemas["Task"];
/** Of a step, what the API's document has as any object. */
type Said = { kind: Schemas["TaskStep"]["kind"]; data: object };

/** Characters of a tool's input or output that are shown. */
const longest = 600;

export const titles: Record<Task["agent"], string> = { claude: "Claude Code", codex: "Codex CLI", gemini: "Gemini CLI" };

export const isOver = (state: Task["state"]) => state === "succeeded" || state === "failed" || state === "cancelled";

/** A step as a line for people. */
export function step({ kind, data }: Said): string {
  const text = (name: string) => {
    const value = (data as Record<string, unknown>)[name];
    const said = typeof value === "string" ? value : value === undefined || value === null ? "" : JSON.stringify(value);
    return said.length > longest ? `${said.slice(0, longest)}…` : said;
  };
  switch (kind) {
    case "started":
      return text("model") ? `Begins, with ${text("model")}.` : "Begins.";
    case "toolCall":
      return `${text("name")} ${text("input")}`;
    case "toolResult":
      return `→ ${text("output")}`;
    default:
      return text("text");
  }
}
