// Shared helpers of the browser tests: browser contexts, sign-in, bounded waits, screenshots, and requests to the Rust
// test that runs the server (tests/e2e/browser.rs), such as to kill it.
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

export const url = required("FSA_URL");
const token = required("FSA_TOKEN");
const screenshots = process.env.FSA_SCREENSHOTS ?? "";
/** Long, so that no test fails because the machine is busy. */
const defaultTimeout = 180_000;

const flags = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
];

function required(name) {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set: run this from tests/e2e/browser.rs`);
  return value;
}

export function check(condition, message) {
  if (!condition) throw new Error(message);
}

/** Polls until `probe` returns a truthy value, and returns it. */
export async function until(what, probe, timeout = defaultTimeout) {
  const end = Date.now() + timeout;
  for (;;) {
    const result = await probe();
    if (result) return result;
    if (Date.now() > end) throw new Error(`timed out after ${timeout} ms: ${what}`);
    await new Promise((done) => setTimeout(done, 50));
  }
}

/** An API request, by default with the owner's token. */
export async function api(method, path, body, as = token) {
  const response = await fetch(url + path, {
    method,
    headers: { authorization: `Bearer ${as}`, ...(body === undefined ? {} : { "content-type": "application/json" }) },
    body: body === undefined ? undefined : JSON.stringify(body),
    signal: AbortSignal.timeout(defaultTimeout),
  });
  const text = await response.text();
  check(response.ok, `${method} ${path}: ${response.status} ${text}`);
  return text ? JSON.parse(text) : undefined;
}

/** Writes a file of a project. */
export async function put(project, path, content) {
  const response = await fetch(`${url}/api/projects/${project}/files?path=${encodeURIComponent(path)}`, {
    method: "PUT",
    headers: { authorization: `Bearer ${token}` },
    body: content,
    signal: AbortSignal.timeout(defaultTimeout),
  });
  check(response.ok, `PUT ${path}: ${response.status} ${await response.text()}`);
}

/**
 * A program in Python that serves its folder on port 3000. Responses must not be cached: the dates of the HTTP cache
 * have a resolution of one second, so a browser may keep the version before a change.
 */
export const fileServer = `
import http.server
class Handler(http.server.SimpleHTTPRequestHandler):
    def end_headers(self):
        self.send_header("Cache-Control", "no-store")
        super().end_headers()
    def log_message(self, form, *rest): print("GET", self.path, flush=True)
print("Listening on port 3000", flush=True)
http.server.ThreadingHTTPServer(("", 3000), Handler).serve_forever()
`;

export const signInLink = async () => (await api("POST", "/api/auth/links")).url.replace(/^https?:\/\/[^/]+/, url);

/** Sends a request to the Rust test, such as `crash` or `serve`, and waits until it is done. */
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
export async function request(what) {
  process.stdout.write(`request ${what}\n`);
  const { value } = await lines.next();
  check(value === "done", `the Rust test responded ${value}`);
}

/** Runs one test with a browser. It fails if a page logs an error, and then leaves a screenshot. */
export async function run(test) {
  const browser = await chromium.launch({ executablePath: process.env.FSA_CHROMIUM ?? "/usr/bin/chromium", args: flags });
  const pageErrors = [];
  const newPage = async (options = {}) => {
    const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, reducedMotion: "reduce", ...options });
    const page = await context.newPage();
    page.setDefaultTimeout(defaultTimeout);
    page.on("pageerror", (error) => pageErrors.push(`page error: ${error.message}`));
    page.on("console", (message) => {
      const text = message.text();
      if (message.type() === "error" && !text.startsWith("Failed to load resource") && !/net::ERR_|WebSocket connection|^Unsafe attempt to initiate navigation/.test(text)) pageErrors.push(text);
    });
    return page;
  };
  let current;
  try {
    await test({ newPage: async (options) => (current = await newPage(options)), browser });
    check(pageErrors.length === 0, `errors in the pages:\n${[...new Set(pageErrors)].join("\n")}`);
    process.stdout.write("passed\n");
  } catch (error) {
    if (current && !current.isClosed()) {
      process.stderr.write(`at ${current.url()}:\n${(await current.locator("body").innerText().catch(() => "")).slice(0, 2000)}\n`);
      if (screenshots) await current.screenshot({ path: join(screenshots, "failed.png") }).catch(() => {});
    }
    process.stderr.write(`${error.stack}\n${pageErrors.length ? `page errors: ${pageErrors.join("\n")}\n` : ""}`);
    process.exitCode = 1;
  } finally {
    await browser.close();
    process.stdin.destroy();
  }
}

/** Signs in with a one-time link. */
export async function signIn(page, link) {
  await page.goto(link ?? (await signInLink()));
  await page.getByRole("button", { name: "Sign in", exact: true }).click();
  await page.getByRole("heading", { name: "Projects" }).waitFor();
}

/** Creates a project with the dialog, from the template “Host”, and waits until its workspace is open. */
export async function createProject(page, name) {
  await page.getByRole("button", { name: "New project" }).first().click();
  await page.getByLabel("Name", { exact: true }).fill(name);
  await page.getByRole("combobox", { name: "Template" }).click();
  await page.getByRole("option", { name: /^Host/ }).click();
  await page.getByRole("button", { name: "Create project", exact: true }).click();
  await page.waitForURL(`**/p/${name}`);
}

/** Waits until the workspace shows this status. */
export const status = (page, label) => page.locator(".tools").first().locator("[data-status]").getByText(label, { exact: true }).waitFor();

/** Text on the terminal's screen. */
export const screen = (page, session = "main") =>
  page.evaluate((session) => window.fsaTerminals?.get(session)?.() ?? "", session);

export const openTerminal = (page, session = "main") => page.locator(`.term[data-session="${session}"][data-tty="open"]`).waitFor();

/** Types a line into the terminal, key by key. */
export async function type(page, line, session = "main") {
  await page.locator(`.term[data-session="${session}"] textarea`).focus();
  await page.keyboard.type(line);
  await page.keyboard.press("Enter");
}

export const sees = (page, text, session = "main") => until(`“${text}” in the terminal`, async () => (await screen(page, session)).includes(text));

/**
 * Waits until the shell shows its prompt. Keys that come earlier are shown twice: by the kernel, and again by the shell's
 * line editor.
 */
export const prompts = (page, session = "main") => until("a prompt", async () => /\$$/.test((await screen(page, session)).trimEnd()));

/** Clears the screen, and waits for the prompt on it. */
export async function clear(page) {
  await type(page, "clear; echo cle''ared");
  await sees(page, "cleared");
  await prompts(page);
}

/** Waits until the page has run its timers and effects: a key before that does not reach what has just been shown. */
export const idle = (page) => page.evaluate(() => new Promise((done) => requestIdleCallback(done)));

export async function escape(page) {
  await idle(page);
  await page.keyboard.press("Escape");
}

/** Saves the file in the editor. The button is disabled while that lasts, too. */
export async function save(page) {
  await page.keyboard.press("Control+s");
  await page.getByRole("button", { name: "Save", exact: true }).and(page.locator("[disabled]:not([data-loading])")).waitFor();
}

/** Waits until the focus is inside of the element. */
export const hasFocus = (locator) => until(`the focus is in ${locator}`, () => locator.evaluate((element) => element.contains(document.activeElement)));

/** Drops a file with this name and content on the element. */
export async function drop(page, selector, name, text) {
  const data = await page.evaluateHandle(([name, text]) => {
    const data = new DataTransfer();
    data.items.add(new File([text], name, { type: "text/plain" }));
    return data;
  }, [name, text]);
  await page.dispatchEvent(selector, "drop", { dataTransfer: data });
}

export async function screenshot(page, name) {
  if (!screenshots) return;
  mkdirSync(screenshots, { recursive: true });
  await page.screenshot({ path: join(screenshots, `${name}.png`) });
}
