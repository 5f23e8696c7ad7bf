// What the browser's stories share: a browser, a person who signs in, waits that end, screenshots,
// and a line to the test that runs the world (which kills the server when a story asks for it).
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

export const url = required("FSA_URL");
const token = required("FSA_TOKEN");
const shots = process.env.FSA_SHOTS ?? "";
const patience = 60_000;

const flags = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
];

function required(name) {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set: this runs from the tests`);
  return value;
}

export function check(truth, sentence) {
  if (!truth) throw new Error(sentence);
}

/** Asks until `look` gives something, within a bound. */
export async function until(what, look, bound = patience) {
  const end = Date.now() + bound;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (Date.now() > end) throw new Error(`waited ${bound} ms for ${what}`);
    await new Promise((done) => setTimeout(done, 50));
  }
}

/** The API as the owner, as a program. */
export async function api(method, path, body, as = token) {
  const answer = await fetch(url + path, {
    method,
    headers: { authorization: `Bearer ${as}`, ...(body === undefined ? {} : { "content-type": "application/json" }) },
    body: body === undefined ? undefined : JSON.stringify(body),
    signal: AbortSignal.timeout(60_000),
  });
  const text = await answer.text();
  check(answer.ok, `${method} ${path}: ${answer.status} ${text}`);
  return text ? JSON.parse(text) : undefined;
}

export const signInLink = async () => (await api("POST", "/api/auth/links")).url.replace(/^https?:\/\/[^/]+/, url);

/** Asks the test for something that only it can do, and waits until it is done. */
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
export async function ask(what) {
  process.stdout.write(`ask ${what}\n`);
  const { value } = await lines.next();
  check(value === "done", `the test answered ${value}`);
}

/** One story: a browser, what the pages complained of, and the end of both. */
export async function story(tell) {
  const browser = await chromium.launch({ executablePath: process.env.FSA_CHROMIUM ?? "/usr/bin/chromium", args: flags });
  const complaints = [];
  const person = async (options = {}) => {
    const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, reducedMotion: "reduce", ...options });
    const page = await context.newPage();
    page.setDefaultTimeout(patience);
    page.on("pageerror", (error) => complaints.push(`page error: ${error.message}`));
    page.on("console", (message) => {
      const text = message.text();
      if (message.type() === "error" && !text.startsWith("Failed to load resource") && !/net::ERR_|WebSocket connection/.test(text)) complaints.push(text);
    });
    return page;
  };
  let current;
  try {
    await tell({ person: async (options) => (current = await person(options)), browser });
    check(complaints.length === 0, `the pages complained:\n${[...new Set(complaints)].join("\n")}`);
    process.stdout.write("told\n");
  } catch (error) {
    if (current && !current.isClosed()) {
      process.stderr.write(`at ${current.url()}:\n${(await current.locator("body").innerText().catch(() => "")).slice(0, 2000)}\n`);
      if (shots) await current.screenshot({ path: join(shots, "failed.png") }).catch(() => {});
    }
    process.stderr.write(`${error.stack}\n${complaints.length ? `complaints: ${complaints.join("\n")}\n` : ""}`);
    process.exitCode = 1;
  } finally {
    await browser.close();
    process.stdin.destroy();
  }
}

/** Signs in with a one-time link, as a person does. */
export async function signIn(page, link) {
  await page.goto(link ?? (await signInLink()));
  await page.getByRole("button", { name: "Sign in", exact: true }).click();
  await page.getByRole("heading", { name: "Projects" }).waitFor();
}

/** Makes a project with the dialog, from this machine's programs, and waits until it runs. */
export async function createProject(page, name) {
  await page.getByRole("button", { name: "New project" }).first().click();
  await page.getByLabel("Name", { exact: true }).fill(name);
  await page.getByRole("combobox", { name: "Made from" }).click();
  await page.getByRole("option", { name: /^Host/ }).click();
  await page.getByRole("button", { name: "Create", exact: true }).click();
  await page.waitForURL(`**/p/${name}`);
}

export const status = (page, word) => page.locator(".tools").first().locator("[data-status]").getByText(word, { exact: true }).waitFor();

/** Text of the terminal's screen. */
export const screen = (page, session = "main") =>
  page.evaluate((session) => window.fsaTerminals?.get(session)?.() ?? "", session);

export const openTerminal = (page, session = "main") => page.locator(`.term[data-session="${session}"][data-tty="open"]`).waitFor();

/** Types a line into the terminal, as keys. */
export async function type(page, line, session = "main") {
  await page.locator(`.term[data-session="${session}"] textarea`).focus();
  await page.keyboard.type(line);
  await page.keyboard.press("Enter");
}

export const sees = (page, text, session = "main") => until(`“${text}” in the terminal`, async () => (await screen(page, session)).includes(text));

export async function shoot(page, name) {
  if (!shots) return;
  mkdirSync(shots, { recursive: true });
  await page.screenshot({ path: join(shots, `${name}.png`) });
}
