// check-layers.mjs [FOLDER]: checks that crates, and modules within a crate, import each other in one direction only, in
// the order of layers.mjs. Reports each import in the wrong direction and each cycle with file and line. Code and
// dependencies of tests (`#[cfg(test)]`, [dev-dependencies]) are not checked.
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { pathToFileURL } from 'node:url';

const root = process.argv[2] ?? join(import.meta.dirname, '..');
const { crates, modules } = await import(pathToFileURL(join(root, 'scripts/layers.mjs')));
const errors = [];

/** Source text with comments, strings and test code blanked out. Line numbers stay. */
function codeOnly(text) {
  const blank = (part) => part.replace(/[^\n]/g, ' ');
  const bare = text.replace(
    /\/\/[^\n]*|\/\*[\s\S]*?\*\/|\br(#*)"[\s\S]*?"\1|"(?:\\[\s\S]|[^"\\])*"|'(?:\\[^\n']+|[^\\\n'])'/g,
    blank,
  );
  let code = bare;
  for (const { index } of bare.matchAll(/#\[cfg\(test\)\]/g)) {
    const end = endOfItem(bare, index);
    code = code.slice(0, index) + blank(code.slice(index, end)) + code.slice(end);
  }
  return code;
}

/** Where the item that begins at `from` ends: at its `;`, or at the brace that closes its body. */
function endOfItem(code, from) {
  let depth = 0;
  for (let at = from; at < code.length; at++) {
    if (code[at] === '{') depth += 1;
    if (code[at] === '}' && --depth === 0) return at + 1;
    if (code[at] === ';' && depth === 0) return at + 1;
  }
  return code.length;
}

/** The Rust files below a folder, without those that are test modules only. */
function rustFiles(folder) {
  const all = readdirSync(folder, { recursive: true }).filter((name) => name.endsWith('.rs'));
  const tests = new Set();
  for (const name of all) {
    const inFolder = name.replace(/(^|\/)(mod|lib|main)\.rs$/, '$1').replace(/\.rs$/, '/');
    const text = readFileSync(join(folder, name), 'utf8');
    for (const [, module] of text.matchAll(/#\[cfg\(test\)\]\s*(?:pub(?:\([a-z]+\))? )?mod (\w+);/g)) {
      tests.add(`${inFolder}${module}`);
    }
  }
  return all.filter((name) => !tests.has(name.replace(/(\/mod)?\.rs$/, ''))).sort();
}

/** The first names of a path's continuation: `a` of `a::b`, and `a`, `c` of `{a::b, c::{d, e}}`. */
function firstNames(code, at) {
  const name = /^\s*(\w+)/.exec(code.slice(at, at + 200));
  if (name) return [[name[1], at]];
  const names = [];
  let depth = 0;
  for (let here = at; here < code.length; here++) {
    const c = code[here];
    if (c === '{') depth += 1;
    if (c === '}' && --depth === 0) break;
    if (depth === 1 && (c === '{' || c === ',')) {
      const next = /^\s*(\w+)/.exec(code.slice(here + 1, here + 300));
      if (next) names.push([next[1], here + 1 + next[0].indexOf(next[1])]);
    }
    if (depth === 0 && !/\s/.test(c)) break;
  }
  return names;
}

/** Every import between the top modules of a crate: [{ from, to, file, line }]. */
function importsOf(crate) {
  const folder = join(root, crate, 'src');
  const files = rustFiles(folder);
  const lib = files.find((name) => name === 'lib.rs') ?? 'main.rs';
  const top = new Set(files.map((name) => name.split('/')[0].replace(/\.rs$/, '')));
  top.delete('lib');
  top.delete('main');
  // With `pub use state::{App, Settings}` in lib.rs, a use of crate::App imports the module `state`.
  const homes = new Map();
  for (const [, module, names] of codeOnly(readFileSync(join(folder, lib), 'utf8')).matchAll(/\buse (?:self::)?(\w+)::([^;]+);/g)) {
    for (const name of names.match(/\w+/g)) homes.set(name, module);
  }
  const found = [];
  for (const name of files) {
    const path = name.replace(/(\/mod)?\.rs$/, '').split('/');
    if (!top.has(path[0])) continue;
    const code = codeOnly(readFileSync(join(folder, name), 'utf8'));
    // `super::` repeated up to the crate's root is the same as `crate::`.
    const toRoot = new RegExp(`(?<![\\w:])(?:crate|super(?:\\s*::\\s*super){${path.length - 1}})\\s*::`, 'g');
    for (const match of code.matchAll(toRoot)) {
      for (const [first, at] of firstNames(code, match.index + match[0].length)) {
        const to = top.has(first) ? first : homes.get(first);
        if (to === undefined || to === path[0]) continue;
        const line = code.slice(0, at).split('\n').length;
        found.push({ from: path[0], to, file: relative(root, join(folder, name)), line });
      }
    }
  }
  return { top, found };
}

/** One cycle of imports, as a list of modules whose last element is its first. */
function findCycle(imports) {
  const after = new Map();
  for (const { from, to } of imports) after.set(from, [...(after.get(from) ?? []), to]);
  const done = new Set();
  const walk = (node, path) => {
    if (path.includes(node)) return [...path.slice(path.indexOf(node)), node];
    if (done.has(node)) return undefined;
    for (const next of after.get(node) ?? []) {
      const found = walk(next, [...path, node]);
      if (found) return found;
    }
    done.add(node);
    return undefined;
  };
  for (const node of [...after.keys()].sort()) {
    const found = walk(node, []);
    if (found) return found;
  }
  return undefined;
}

function checkModules(crate, { layers, allowed = [] }) {
  const layerOf = new Map(layers.flatMap((names, layer) => names.map((name) => [name, layer])));
  const { top, found } = importsOf(crate);
  for (const name of top) {
    if (!layerOf.has(name)) errors.push(`${crate}/src: the module \`${name}\` has no layer; give it one in scripts/layers.mjs`);
  }
  for (const name of layerOf.keys()) {
    if (!top.has(name)) errors.push(`scripts/layers.mjs: ${crate} has no module \`${name}\` any more; remove it from the layers`);
  }
  const isAllowed = ({ from, to }) => allowed.some(([a, b]) => a === from && b === to);
  for (const [from, to] of allowed) {
    if (!found.some((one) => one.from === from && one.to === to)) {
      errors.push(`scripts/layers.mjs: ${crate}: \`${from}\` imports \`${to}\` no longer; remove the line that allows it`);
    }
  }
  const counted = found.filter((one) => !isAllowed(one));
  const down = [];
  for (const one of counted) {
    if (layerOf.get(one.to) < layerOf.get(one.from)) {
      errors.push(`${one.file}:${one.line}: \`${one.from}\` must not import \`${one.to}\`, which is a layer above it (scripts/layers.mjs)`);
    } else {
      down.push(one);
    }
  }
  const cycle = findCycle(down);
  if (cycle) {
    const steps = cycle.slice(1).map((to, index) => {
      const step = down.find((one) => one.from === cycle[index] && one.to === to);
      return `${step.file}:${step.line} imports \`${to}\``;
    });
    errors.push(`${crate}: the modules ${cycle.join(' → ')} import each other in a cycle: ${steps.join('; ')}`);
  }
  return new Set(found.map(({ from, to }) => `${from} ${to}`)).size;
}

/** The names in one kind of section of a Cargo.toml, with their lines: [dependencies], [dependencies.NAME]. */
function dependencies(manifest, section) {
  const names = [];
  let inside = false;
  for (const [index, line] of manifest.split('\n').entries()) {
    const header = /^\s*\[([^\]]+)\]/.exec(line);
    if (header) {
      inside = header[1] === section || header[1].endsWith(`'.${section}`);
      if (header[1].startsWith(`${section}.`)) names.push([header[1].slice(section.length + 1), index + 1]);
    }
    const name = /^([\w-]+)\s*[.=]/.exec(line);
    if (inside && name) names.push([name[1], index + 1]);
  }
  return names;
}

function checkCrates() {
  const manifests = readdirSync(join(root, 'crates')).map((name) => `crates/${name}/Cargo.toml`);
  for (const path of manifests.filter((path) => existsSync(join(root, path)))) {
    const manifest = readFileSync(join(root, path), 'utf8');
    const [, crate] = /^name = "(.*)"/m.exec(manifest);
    if (crates[crate] === undefined) {
      errors.push(`${path}: the crate ${crate} is not in scripts/layers.mjs; add the crates that it may depend on`);
      continue;
    }
    for (const [name, line] of [...dependencies(manifest, 'dependencies'), ...dependencies(manifest, 'build-dependencies')]) {
      if (!name.startsWith('fsa-') || crates[crate].includes(name)) continue;
      errors.push(`${path}:${line}: ${crate} must not depend on ${name}; it may on ${crates[crate].join(', ') || 'none of ours'} (scripts/layers.mjs)`);
    }
  }
}

checkCrates();
let imports = 0;
for (const [crate, order] of Object.entries(modules)) imports += checkModules(crate, order);
for (const error of errors) console.error(error);
if (errors.length > 0) process.exit(1);
console.error(`${Object.keys(crates).length} crates and ${imports} imports between modules: none in the wrong direction`);
