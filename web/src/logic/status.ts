// Labels and colors of sandbox phases, and the actions that each phase allows.
import type { Phase } from "../api/client";

export interface PhaseStatus {
  label: string;
  /** A color of the theme. */
  color: string;
  inProgress: boolean;
}

const statuses: Record<Phase, PhaseStatus> = {
  CREATING: { label: "Creating", color: "blue", inProgress: true },
  STARTING: { label: "Starting", color: "blue", inProgress: true },
  RUNNING: { label: "Running", color: "teal", inProgress: false },
  UPDATING: { label: "Updating", color: "blue", inProgress: true },
  STOPPING: { label: "Stopping", color: "yellow", inProgress: true },
  STOPPED: { label: "Stopped", color: "gray", inProgress: false },
  TERMINATING: { label: "Terminating", color: "yellow", inProgress: true },
  TERMINATED: { label: "Terminated", color: "gray", inProgress: false },
  ERROR: { label: "Error", color: "red", inProgress: false },
};

export function phaseStatus(phase: Phase | undefined): PhaseStatus {
  return phase ? statuses[phase] : { label: "No sandbox", color: "gray", inProgress: false };
}

export const canStart = (phase: Phase | undefined) =>
  phase === undefined || phase === "STOPPED" || phase === "TERMINATED" || phase === "STOPPING";
export const canStop = (phase: Phase | undefined) =>
  phase === "RUNNING" || phase === "STARTING" || phase === "CREATING" || phase === "UPDATING" || phase === "ERROR";
