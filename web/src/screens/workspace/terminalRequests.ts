// Requests from other views to show a terminal session, and to type a command into a new one.

type Listener = (session: string) => void;

const listeners = new Map<string, Listener>();
const commands = new Map<string, string>();
const key = (project: string, session: string) => `${project} ${session}`;

/** Shows the session. A command is typed into it when it is connected, so the session must be new. */
export function showTerminal(project: string, session: string, command?: string) {
  if (command === undefined) commands.delete(key(project, session));
  else commands.set(key(project, session), command);
  listeners.get(project)?.(session);
}

export function onTerminalRequest(project: string, callback: Listener): () => void {
  listeners.set(project, callback);
  return () => {
    if (listeners.get(project) === callback) listeners.delete(project);
  };
}

/** Removes and returns the pending command of a session. */
export function takeCommand(project: string, session: string): string | undefined {
  const command = commands.get(key(project, session));
  commands.delete(key(project, session));
  return command;
}
