// Limits of a user: parsing and formatting.
import type { Schemas } from "../api/client";

type Limits = Schemas["Limits"];
type Used = Schemas["Used"];

export const limitFields = [
  { key: "projects", label: "Projects", unit: "" },
  { key: "running", label: "Running sandboxes", unit: "" },
  { key: "cpuMillis", label: "CPU of running sandboxes (millicores)", unit: " m" },
  { key: "memoryMib", label: "Memory of running sandboxes (MiB)", unit: " MiB" },
  { key: "diskMib", label: "Disk (MiB)", unit: " MiB" },
  { key: "requestsPerMinute", label: "Requests per minute", unit: "" },
  { key: "execsPerMinute", label: "Commands per minute", unit: "" },
] as const satisfies { key: keyof Limits; label: string; unit: string }[];

/** Current usage; undefined for rates per minute, which the API does not report. */
export const usageOf = (used: Used | null | undefined, key: keyof Limits): number | undefined =>
  (used as Partial<Record<keyof Limits, number>> | null | undefined)?.[key];

/** `3 of 5`, or only the usage where there is no limit. */
export const formatUsage = (used: number, limit: number | null | undefined, unit = "") =>
  limit === null || limit === undefined ? `${used}${unit}` : `${used} of ${limit}${unit}`;

/** The limits in a form's fields: an empty field is no limit. Undefined if a field is not a whole number. */
export function parseLimits(fields: Record<string, string>): Limits | undefined {
  const limits: Limits = Object.fromEntries(limitFields.map(({ key }) => [key, null])) as Limits;
  for (const { key } of limitFields) {
    const text = (fields[key] ?? "").trim();
    if (text === "") continue;
    const value = Number(text);
    if (!Number.isSafeInteger(value) || value < 0) return undefined;
    limits[key] = value;
  }
  return limits;
}
