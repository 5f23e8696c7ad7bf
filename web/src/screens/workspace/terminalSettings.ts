// Settings of terminals, kept in this browser.
import { useLocalStorage } from "@mantine/hooks";

/** Whether programs in the terminals of a project may copy to the clipboard (OSC 52); undecided until one tries. */
export const useCopying = (project: string) =>
  useLocalStorage<"ask" | "allow" | "deny">({ key: `fsa.terminal.copy.${project}`, defaultValue: "ask", getInitialValueInEffect: false });

/** Whether the Option key of a Mac is Meta (Esc), instead of the key for characters such as `@` and `{`. */
export const useOptionIsMeta = () => useLocalStorage({ key: "fsa.terminal.optionIsMeta", defaultValue: false, getInitialValueInEffect: false });
