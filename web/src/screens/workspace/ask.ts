// How a view asks the terminals beside it for a session that runs a command.

type Hear = (session: string) => void;

let hear: Hear | undefined;
const commands = new Map<string, string>();

/** Opens the session and types the command into it once it is there. */
export function askTerminal(session: string, command: string) {
  commands.set(session, command);
  hear?.(session);
}

export function onAsked(act: Hear): () => void {
  hear = act;
  return () => {
    if (hear === act) hear = undefined;
  };
}

/** The command that a session was asked for, once. */
export function takeCommand(session: string): string | undefined {
  const command = commands.get(session);
  commands.delete(session);
  return command;
}
