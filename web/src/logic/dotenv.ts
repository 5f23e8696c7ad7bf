// Parser of pasted `.env` text: NAME=value lines with `export`, quotes and comments.

export interface Parsed {
  variables: Record<string, string>;
  /** Invalid lines, by number from 1, with the reason. */
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
      problems.push({ line, reason: "missing “=” after the name" });
      continue;
    }
    const name = match[1] ?? "";
    let rest = match[2] ?? "";
    if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(name)) {
      problems.push({ line, reason: `invalid variable name “${name}”` });
      continue;
    }
    const quote = rest[0];
    if (quote !== '"' && quote !== "'") {
      variables[name] = rest.replace(/\s+#.*$/, "").trimEnd();
      continue;
    }
    // A quoted value may span several lines, such as a private key.
    let end = closingQuote(rest, quote);
    while (end < 0 && index + 1 < lines.length) {
      index += 1;
      rest += `\n${lines[index]}`;
      end = closingQuote(rest, quote);
    }
    if (end < 0) {
      problems.push({ line, reason: `unterminated quote in the value of ${name}` });
      continue;
    }
    const inner = rest.slice(1, end);
    variables[name] = quote === '"' ? inner.replace(/\\([nrt"\\$])/g, (_, c: string) => escapes[c] ?? c) : inner;
  }
  return { variables, problems };
}

function closingQuote(text: string, quote: string): number {
  for (let at = 1; at < text.length; at++) {
    if (quote === '"' && text[at] === "\\") at++;
    else if (text[at] === quote) return at;
  }
  return -1;
}
