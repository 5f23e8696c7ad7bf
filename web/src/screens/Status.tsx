// A phase as a dot and a word.
import type { Phase } from "../api/client";
import { look } from "../logic/status";

export function Status({ phase }: { phase: Phase | undefined }) {
  const { word, color, moving } = look(phase);
  return (
    <span style={{ display: "inline-flex", alignItems: "center", gap: 7, whiteSpace: "nowrap" }} data-status={phase}>
      <span
        className="dot"
        data-moving={moving}
        style={{ "--dot": `var(--mantine-color-${color}-${color === "gray" ? 6 : 5})` } as React.CSSProperties}
      />
      {word}
    </span>
  );
}
