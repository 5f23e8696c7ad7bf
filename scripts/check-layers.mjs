// check-layers.mjs [FOLDER]: the crates, and the modules within a crate, import each other in one direction only. The
// order is in layers.mjs beside this file. Each import that points the wrong way is named with its file and line, and
// so is each circle of modules. What only tests compile (`#[cfg(test)]`, [dev-dependencies]) is free.
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
  // `pub use state::{App, Settings}` in lib.rs: whoever names crate::App imports the module `state`.
  const homes = new Map();
  for (const [, module, names] of codeOnly(readFileSync(join(folder, lib), 'utf8')).matchAll(/\buse (?:self::)?(\w+)::([^;]+);/g)) {
    for (const name of names.match(/\w+/g)) homes.set(name, module);
  }
  const found = [];
  for (const name of files) {
    const path = name.replace(/(\/mod)?\.rs$/, '').split('/');
    if (!top.has(path[0])) continue;
    const code = codeOnly(readFileSync(join(folder, name), 'utf8'));
    // `super::` as often as the file is deep leads to the crate's root, as `crate::` does.
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

/** One circle among arrows, as a list of modules that ends where it begins. */
function circle(arrows) {
  const after = new Map();
  for (const { from, to } of arrows) after.set(from, [...(after.get(from) ?? []), to]);
  const done = new Set();
  const walk = (node, way) => {
    if (way.includes(node)) return [...way.slice(way.indexOf(node)), node];
    if (done.has(node)) return undefined;
    for (const next of after.get(node) ?? []) {
      const found = walk(next, [...way, node]);
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
  const round = circle(down);
  if (round) {
    const steps = round.slice(1).map((to, index) => {
      const step = down.find((one) => one.from === round[index] && one.to === to);
      return `${step.file}:${step.line} imports \`${to}\``;
    });
    errors.push(`${crate}: the modules ${round.join(' → ')} import each other in a circle: ${steps.join('; ')}`);
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
      errors.push(`${path}: the crate ${crate} is not in scripts/layers.mjs; say there which crates it may depend on`);
      continue;
    }
    for (const [name, line] of [...dependencies(manifest, 'dependencies'), ...dependencies(manifest, 'build-dependencies')]) {
      if (!name.startsWith('fsa-') || crates[crate].includes(name)) continue;
      errors.push(`${path}:${line}: ${crate} must not depend on ${name}; it may on ${crates[crate].join(', ') || 'none of ours'} (scripts/layers.mjs)`);
    }
  }
}

checkCrates();
let arrows = 0;
for (const [crate, order] of Object.entries(modules)) arrows += checkModules(crate, order);
for (const error of errors) console.error(error);
if (errors.length > 0) process.exit(1);
console.error(`${Object.keys(crates).length} crates and ${arrows} arrows between modules: none points the wrong way`);
