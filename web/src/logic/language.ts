// Syntax highlighting by file extension. Each language is loaded when it is first needed.
import type { Extension } from "@codemirror/state";

type Load = () => Promise<Extension>;

const script = (options: { typescript?: boolean; jsx?: boolean }): Load =>
  async () => (await import("@codemirror/lang-javascript")).javascript(options);
const html: Load = async () => (await import("@codemirror/lang-html")).html();
const yaml: Load = async () => (await import("@codemirror/lang-yaml")).yaml();

const byExtension: Record<string, Load> = {
  js: script({ jsx: true }), mjs: script({ jsx: true }), cjs: script({ jsx: true }), jsx: script({ jsx: true }),
  ts: script({ typescript: true }), mts: script({ typescript: true }), tsx: script({ typescript: true, jsx: true }),
  html, htm: html, vue: html, svelte: html, svg: html, xml: html,
  css: async () => (await import("@codemirror/lang-css")).css(),
  scss: async () => (await import("@codemirror/lang-css")).css(),
  json: async () => (await import("@codemirror/lang-json")).json(),
  md: async () => (await import("@codemirror/lang-markdown")).markdown(),
  py: async () => (await import("@codemirror/lang-python")).python(),
  sql: async () => (await import("@codemirror/lang-sql")).sql(),
  yaml, yml: yaml,
};

/** The extension in lowercase, without the dot. */
export function fileExtension(path: string): string {
  const name = path.split("/").pop() ?? "";
  const at = name.lastIndexOf(".");
  return at < 0 ? "" : name.slice(at + 1).toLowerCase();
}

export function hasLanguage(path: string): boolean {
  return Object.hasOwn(byExtension, fileExtension(path));
}

export async function language(path: string): Promise<Extension | undefined> {
  return hasLanguage(path) ? byExtension[fileExtension(path)]?.() : undefined;
}
