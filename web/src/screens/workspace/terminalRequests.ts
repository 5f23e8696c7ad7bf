// Requests from other views to open a terminal session with a command.

type Listener = (session: string) => void;

let listener: Listener | undefined;
const commands = new Map<string, string>();

/** Opens the session, and types the command into it once it is connected. */
export function runInTerminal(session: string, command: string) {
  commands.set(session, command);
  listener?.(session);
}

export function onTerminalRequest(callback: Listener): () => void {
  listener = callback;
  return () => {
    if (listener === callback) listener = undefined;
  };
}

/** Removes and returns the pending command of a session. */
export function takeCommand(session: string): string | undefined {
  const command = commands.get(session);
  commands.delete(session);
  return command;
}
