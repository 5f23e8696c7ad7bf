// Names of terminal sessions.

/** The first of `t2`, `t3`, … that is free; the first session is `main`. */
export function nextTerminalName(names: string[]): string {
  for (let number = 2; ; number++) {
    const name = `t${number}`;
    if (!names.includes(name)) return name;
  }
}
