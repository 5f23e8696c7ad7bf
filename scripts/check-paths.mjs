// check-paths.mjs [FOLDER]: what the docs point at exists. In every Markdown file of the repository: the file of each
// link and the heading of its #anchor, and each path in backticks that ends like a source file (`projects/create.rs`). In
// comments of Rust code: each name of a Rust file in backticks. A path may leave out the folders that it begins with.
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join, posix } from 'node:path';

const root = process.argv[2] ?? join(import.meta.dirname, '..');
// As git sees the folder: what is tracked, and new files that are not ignored.
const listed = execFileSync('git', ['-C', root, 'ls-files', '--cached', '--others', '--exclude-standard', '--deduplicate'], {
  encoding: 'utf8',
  maxBuffer: 64 << 20,
});
const gone = execFileSync('git', ['-C', root, 'ls-files', '--deleted'], { encoding: 'utf8' }).split('\n');
const files = new Set(listed.split('\n').filter((name) => name !== '' && !gone.includes(name)));
const folders = new Set();
// How many files have each end of a path: `a/b/c.rs` counts for `a/b/c.rs`, `b/c.rs` and `c.rs`.
const ends = new Map();
for (const file of files) {
  const parts = file.split('/');
  for (let from = 0; from < parts.length; from++) {
    const end = parts.slice(from).join('/');
    ends.set(end, (ends.get(end) ?? 0) + 1);
  }
  for (let to = 1; to < parts.length; to++) folders.add(parts.slice(0, to).join('/'));
}
const errors = [];
let checked = 0;

/** GitHub's anchor for a heading. */
const anchor = (heading) =>
  heading
    .replace(/[`*]|\[([^\]]*)\]\([^)]*\)/g, '$1')
    .trim()
    .toLowerCase()
    .replace(/[^\p{L}\p{N} _-]/gu, '')
    .replaceAll(' ', '-');

/** Markdown without what is fenced as code; lines stay. */
const prose = (text) => text.replace(/^```[\s\S]*?^```/gm, (block) => block.replace(/[^\n]/g, ' '));

function anchorsOf(file) {
  const headings = [...prose(readFileSync(join(root, file), 'utf8')).matchAll(/^#+ (.*)$/gm)];
  return new Set(headings.map(([, heading]) => anchor(heading)));
}

function checkLink(file, line, target) {
  if (/^[a-z]+:/i.test(target)) return;
  checked += 1;
  const [path, fragment] = target.split('#');
  const at = path === '' ? file : posix.normalize(posix.join(posix.dirname(file), path)).replace(/\/$/, '');
  if (!files.has(at) && !folders.has(at) && at !== '.') {
    errors.push(`${file}:${line}: the link leads to ${at}, which does not exist`);
  } else if (fragment && at.endsWith('.md') && !anchorsOf(at).has(fragment)) {
    errors.push(`${file}:${line}: the link leads to #${fragment}, and ${at} has no such heading`);
  }
}

function checkPath(file, line, path) {
  checked += 1;
  const here = posix.normalize(posix.join(posix.dirname(file), path));
  if (files.has(path) || files.has(here)) return;
  if (!ends.has(path)) errors.push(`${file}:${line}: there is no file ${path}`);
  // A reader of the docs, unlike one of a comment, is in no folder.
  if (ends.get(path) > 1 && !path.includes('/') && file.endsWith('.md')) errors.push(`${file}:${line}: several files are called ${path}; add a folder`);
}

const source = /^(?![~/])[\w.@-]+(\/[\w.@-]+)+\.(rs|md|mjs|sh|toml|tsx?|json|ya?ml|sql|css)$/;
const rust = /^[\w-]+(\/[\w-]+)*\.rs$/;

for (const file of files) {
  if (!/\.(md|rs)$/.test(file) || file.startsWith('fuzz/corpus/')) continue;
  const markdown = file.endsWith('.md');
  const text = readFileSync(join(root, file), 'utf8');
  for (const [index, line] of (markdown ? prose(text) : text).split('\n').entries()) {
    const words = markdown ? line : /\/\/.*$/.exec(line)?.[0];
    if (words === undefined) continue;
    for (const [, inside] of words.matchAll(/`([^`\s]+)`/g)) {
      const path = inside.replace(/:\d+$/, '');
      if (rust.test(path) || (markdown && source.test(path))) checkPath(file, index + 1, path);
    }
    if (!markdown) continue;
    for (const [, target] of line.replace(/`[^`]*`/g, '').matchAll(/\]\(([^()\s]+)\)/g)) checkLink(file, index + 1, target);
    for (const [, target] of line.matchAll(/^\[[^\]]+\]: (\S+)/g)) checkLink(file, index + 1, target);
  }
}
for (const error of errors) console.error(error);
if (errors.length > 0) process.exit(1);
console.error(`${checked} links and paths in docs and comments: each leads somewhere`);
