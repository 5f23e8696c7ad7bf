// Sandbox phase as a colored dot and a label.
import type { Phase } from "../api/client";
import { phaseStatus } from "../logic/status";

export function Status({ phase }: { phase: Phase | undefined }) {
  const { label, color, inProgress } = phaseStatus(phase);
  return (
    <span style={{ display: "inline-flex", alignItems: "center", gap: 7, whiteSpace: "nowrap" }} data-status={phase}>
      <span
        className="dot"
        data-in-progress={inProgress}
        style={{ "--dot": `var(--mantine-color-${color}-${color === "gray" ? 6 : 5})` } as React.CSSProperties}
      />
      {label}
    </span>
  );
}
