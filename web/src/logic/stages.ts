// How long each stage took, from when it and the others changed.
import type { Schemas } from "../api/client";

type Condition = Schemas["Condition"];

/**
 * Milliseconds for each stage, undefined for one that has not begun. The API says since when a
 * stage is in its state: for one that is done that is its end, and it began when the last of those before it
 * ended (the first two run side by side, so both began at the start; so does one that is done while they go on).
 */
export function lengths(stages: Condition[], began: string, now: number): (number | undefined)[] {
  const start = new Date(began).getTime();
  const time = (index: number) => new Date(stages[index]?.since ?? began).getTime();
  return stages.map((stage, index) => {
    if (stage.state === "pending") return undefined;
    if (stage.state === "active") return Math.max(0, now - time(index));
    const earlier = index < 2 ? [] : stages.slice(0, index).flatMap((one, at) => (one.state === "done" && time(at) <= time(index) ? [time(at)] : []));
    return Math.max(0, time(index) - Math.max(start, ...earlier));
  });
}
