// Durations of the stages of a sandbox start, from the times of their last changes.
import type { Schemas } from "../api/client";

type Condition = Schemas["Condition"];

/**
 * Milliseconds for each stage, undefined for one that has not begun. The API reports since when a stage is in its
 * state: for a done stage that is its end, and it began when the last of the stages before it ended. The first two
 * stages run in parallel, so both began at the start; so did a stage that is done while they are still active.
 */
export function stageDurations(stages: Condition[], createdAt: string, now: number): (number | undefined)[] {
  const start = new Date(createdAt).getTime();
  const time = (index: number) => new Date(stages[index]?.since ?? createdAt).getTime();
  return stages.map((stage, index) => {
    if (stage.state === "pending") return undefined;
    if (stage.state === "active") return Math.max(0, now - time(index));
    const earlier = index < 2 ? [] : stages.slice(0, index).flatMap((other, at) => (other.state === "done" && time(at) <= time(index) ? [time(at)] : []));
    return Math.max(0, time(index) - Math.max(start, ...earlier));
  });
}
