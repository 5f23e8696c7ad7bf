// Removal of terminal control sequences from text.

// Bytes between ESC and a final one (ECMA-48), titles (OSC), and the other control characters.
const sequences = /\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-Z\\-_]|[\x00-\x08\x0b-\x1f\x7f]/g;

export function stripAnsi(text: string): string {
  return text.replace(sequences, "");
}
