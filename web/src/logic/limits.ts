// Limits as a person types them, and as they are shown.
import type { Schemas } from "../api/client";

type Limits = Schemas["Limits"];
type Used = Schemas["Used"];

export const kinds = [
  { key: "projects", label: "Projects", unit: "" },
  { key: "running", label: "Running at the same time", unit: "" },
  { key: "cpuMillis", label: "Processor of those, in thousandths", unit: " m" },
  { key: "memoryMib", label: "Memory of those, in MiB", unit: " MiB" },
  { key: "diskMib", label: "Disk, in MiB", unit: " MiB" },
  { key: "requestsPerMinute", label: "Requests in a minute", unit: "" },
  { key: "execsPerMinute", label: "Programs started in a minute", unit: "" },
] as const satisfies { key: keyof Limits; label: string; unit: string }[];

/** What is used of it at this moment; of what is counted over a minute nothing is told. */
export const useOf = (used: Used | null | undefined, key: keyof Limits): number | undefined =>
  (used as Partial<Record<keyof Limits, number>> | null | undefined)?.[key];

/** `3 of 5`, or what is used where there is no limit. */
export const usedOf = (used: number, limit: number | null | undefined, unit = "") =>
  limit === null || limit === undefined ? `${used}${unit}` : `${used} of ${limit}${unit}`;

/** The limits of a form's fields: an empty one is no limit. Undefined where one is not a whole number. */
export function limitsOf(fields: Record<string, string>): Limits | undefined {
  const limits: Limits = Object.fromEntries(kinds.map(({ key }) => [key, null])) as Limits;
  for (const { key } of kinds) {
    const text = (fields[key] ?? "").trim();
    if (text === "") continue;
    const value = Number(text);
    if (!Number.isSafeInteger(value) || value < 0) return undefined;
    limits[key] = value;
  }
  return limits;
}
