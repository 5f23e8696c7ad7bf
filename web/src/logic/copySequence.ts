// OSC 52: a program in a terminal copies text to the clipboard of its viewer.

/** The text that the sequence's data copies; undefined for a query, which is never answered, and for anything else. */
export function copiedText(data: string): string | undefined {
  const found = /^[cpqs0-7]*;([A-Za-z0-9+/]+={0,2})$/.exec(data);
  if (!found?.[1]) return undefined;
  try {
    return new TextDecoder().decode(Uint8Array.from(atob(found[1]), (byte) => byte.charCodeAt(0)));
  } catch {
    return undefined;
  }
}
