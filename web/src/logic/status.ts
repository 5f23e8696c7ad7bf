// What a phase means to a person: a word, a color, and what can be done.
import type { Phase } from "../api/client";

export interface Look {
  word: string;
  /** A color of the theme. */
  color: string;
  /** Something is under way. */
  moving: boolean;
}

const looks: Record<Phase, Look> = {
  CREATING: { word: "Creating", color: "blue", moving: true },
  STARTING: { word: "Starting", color: "blue", moving: true },
  RUNNING: { word: "Running", color: "teal", moving: false },
  UPDATING: { word: "Updating", color: "blue", moving: true },
  STOPPING: { word: "Stopping", color: "yellow", moving: true },
  STOPPED: { word: "Stopped", color: "gray", moving: false },
  TERMINATING: { word: "Terminating", color: "yellow", moving: true },
  TERMINATED: { word: "Terminated", color: "gray", moving: false },
  ERROR: { word: "Error", color: "red", moving: false },
};

export function look(phase: Phase | undefined): Look {
  return phase ? looks[phase] : { word: "No sandbox", color: "gray", moving: false };
}

export const canStart = (phase: Phase | undefined) =>
  phase === undefined || phase === "STOPPED" || phase === "TERMINATED" || phase === "STOPPING";
export const canStop = (phase: Phase | undefined) =>
  phase === "RUNNING" || phase === "STARTING" || phase === "CREATING" || phase === "UPDATING" || phase === "ERROR";
