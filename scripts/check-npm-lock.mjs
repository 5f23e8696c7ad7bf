// check-npm-lock.mjs LOCK: checks npm's lock file offline: each package has a checksum, comes from the registry and not
// from another address, runs no program when it is installed, and has a license of the list below. scripts/lint.sh
// checks advisories separately, where the registry answers.
import { readFileSync } from 'node:fs';

const LICENSES = new Set([
  '0BSD',
  'Apache-2.0',
  'BSD-2-Clause',
  'BSD-3-Clause',
  'BlueOak-1.0.0',
  'CC0-1.0',
  'ISC',
  'MIT',
  // For files that are used unchanged.
  'MPL-2.0',
  'Python-2.0',
  'Unlicense',
]);

/** Whether the list satisfies an SPDX expression of names, OR and AND. */
function allowed(license) {
  if (typeof license !== 'string') return false;
  const plain = license.replace(/^\((.*)\)$/, '$1');
  return plain
    .split(' OR ')
    .some((all) => all.split(' AND ').every((one) => LICENSES.has(one.trim())));
}

/** The violations of one package. */
function faults(entry) {
  const found = [];
  if (!/^sha512-[A-Za-z0-9+/]{86}==$/.test(entry.integrity ?? '')) found.push('has no sha512 checksum');
  // The lock omits the address of packages from the configured registry.
  if (entry.resolved !== undefined) found.push(`does not come from the registry (${entry.resolved})`);
  if (entry.link) found.push('is a link to a folder');
  if (entry.hasInstallScript) found.push('runs a program when it is installed');
  if (!allowed(entry.license)) found.push(`has the license ${entry.license ?? '(none)'}, which is not in the list`);
  return found;
}

const path = process.argv[2];
const lock = JSON.parse(readFileSync(path, 'utf8'));
if (lock.lockfileVersion !== 3) throw new Error(`${path} is not a lock file of version 3`);
const packages = Object.entries(lock.packages).filter(([name]) => name !== '');
if (packages.length === 0) throw new Error(`${path} names no package`);
let wrong = 0;
for (const [name, entry] of packages) {
  for (const fault of faults(entry)) {
    wrong += 1;
    console.error(`${path}: ${name} ${fault}`);
  }
}
if (wrong > 0) process.exit(1);
console.error(`${packages.length} packages: each with a checksum, from the registry, without install scripts, licensed`);
