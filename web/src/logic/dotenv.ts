// Reads pasted `.env` text: NAME=value lines with `export`, quotes and comments, as people have them.

export interface Parsed {
  variables: Record<string, string>;
  /** Lines that are no variable, by number from 1, with the reason. */
  problems: { line: number; reason: string }[];
}

const escapes: Record<string, string> = { n: "\n", r: "\r", t: "\t", '"': '"', "\\": "\\", $: "$" };

export function parseDotenv(text: string): Parsed {
  const variables: Record<string, string> = {};
  const problems: Parsed["problems"] = [];
  const lines = text.split(/\r?\n/);
  for (let index = 0; index < lines.length; index++) {
    const line = index + 1;
    const trimmed = (lines[index] ?? "").trim();
    if (trimmed === "" || trimmed.startsWith("#")) continue;
    const match = /^(?:export\s+)?([^=\s]+)\s*=\s*(.*)$/.exec(trimmed);
    if (!match) {
      problems.push({ line, reason: "there is no “=” after a name" });
      continue;
    }
    const name = match[1] ?? "";
    let rest = match[2] ?? "";
    if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(name)) {
      problems.push({ line, reason: `“${name}” is no name of a variable` });
      continue;
    }
    const quote = rest[0];
    if (quote !== '"' && quote !== "'") {
      variables[name] = rest.replace(/\s+#.*$/, "").trimEnd();
      continue;
    }
    // A quoted value may go on over several lines, such as a private key.
    let end = closing(rest, quote);
    while (end < 0 && index + 1 < lines.length) {
      index += 1;
      rest += `\n${lines[index]}`;
      end = closing(rest, quote);
    }
    if (end < 0) {
      problems.push({ line, reason: `the quote that ${name} begins with has no end` });
      continue;
    }
    const inner = rest.slice(1, end);
    variables[name] = quote === '"' ? inner.replace(/\\([nrt"\\$])/g, (_, c: string) => escapes[c] ?? c) : inner;
  }
  return { variables, problems };
}

function closing(text: string, quote: string): number {
  for (let at = 1; at < text.length; at++) {
    if (quote === '"' && text[at] === "\\") at++;
    else if (text[at] === quote) return at;
  }
  return -1;
}
