// Interactions in a workspace: clipboard, file drop, download, log filter, pane resize, port settings, phone keys,
// and the whole lifecycle with the keyboard only. Also live updates of changes by the `fsa` command line.
import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { createServer } from "node:net";
import { promisify } from "node:util";
import { api, check, clear, drop, escape, hasFocus, idle, openTerminal, prompts, put, run, screen, screenshot, sees, signIn, signInLink, status, type, until, url } from "./lib.mjs";

/** Runs the command line as the owner, against the same server. */
const fsa = (...words) => promisify(execFile)(process.env.FSA_BIN, words, { timeout: 180_000 });
const view = (page, name) => page.getByRole("tab", { name, exact: true }).click();
/** Address of an image registry, which this story serves. */
const registry = process.argv[2];
const exec = async (...command) => (await api("POST", "/api/projects/demo/exec", { command })).stdout;

/** Answers every request, on port 3000, and forbids to be shown in a frame at three of its paths. */
const application = `
import http.server
rules = {
    "/deny": ("X-Frame-Options", "DENY"),
    "/same-origin": ("X-Frame-Options", "SAMEORIGIN"),
    "/ancestors": ("Content-Security-Policy", "frame-ancestors 'self'"),
}
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Cache-Control", "no-store")
        if self.path in rules: self.send_header(*rules[self.path])
        self.end_headers()
        self.wfile.write(f"<h1>Come in</h1><p>Host: {self.headers['Host']}</p>".encode())
    def log_message(self, form, *rest): pass
http.server.ThreadingHTTPServer(("", 3000), Handler).serve_forever()
`;

await run(async ({ newPage }) => {
  const page = await newPage({ permissions: ["clipboard-read", "clipboard-write"], acceptDownloads: true });
  await signIn(page);

  // A project that `fsa` creates appears in the list at once, and its stages are shown live: the start takes as long as
  // the registry does not answer, and fails when it is gone.
  const connections = [];
  const server = createServer((socket) => connections.push(socket.on("error", () => {})));
  const [registryHost, registryPort] = registry.split(":");
  await new Promise((done) => server.listen(Number(registryPort), registryHost, done));
  await fsa("project", "create", "broken", "--image", `${registry}/none:1`, "--no-wait");
  await page.getByRole("link", { name: "broken" }).waitFor();
  await page.getByRole("link", { name: "broken" }).click();
  await page.locator('[data-stage][data-state="active"]').first().waitFor();
  server.close();
  for (const socket of connections) socket.destroy();
  await page.getByRole("heading", { name: "Sandbox failed to start" }).waitFor();
  await page.locator('[data-stage][data-state="failed"]').first().waitFor();

  // A failed start shows its cause, can be retried, and succeeds with another template on the same page.
  const failed = page.getByRole("alert").first();
  const cause = await failed.innerText();
  check(cause.includes(registry), `the cause is not shown: ${cause}`);
  const attempts = async () => (await api("GET", "/api/projects/broken/events?follow=false")).items.filter((event) => event.kind === "attemptFailed").length;
  const before = await attempts();
  await page.getByRole("button", { name: "Retry now" }).click();
  await until("another attempt", async () => (await attempts()) > before);
  await view(page, "Settings");
  await page.getByRole("combobox", { name: "Template" }).click();
  await page.getByRole("option", { name: /^Host/ }).click();
  await page.getByRole("form", { name: "Settings" }).getByRole("button", { name: "Save" }).click();
  await status(page, "Running");
  await openTerminal(page);
  await fsa("project", "delete", "broken", "--yes");
  await page.getByRole("heading", { name: "Project broken not found" }).waitFor();

  await fsa("project", "create", "demo", "--no-wait", "--template", "host", "--start-command", "while :; do echo tick; echo failure >&2; sleep 0.3; done");
  await page.goto(`${url}/p/demo?view=logs`);
  await status(page, "Running");
  await openTerminal(page);

  // Logs: filtered by source and by text.
  const log = page.getByRole("log");
  await log.locator(".stdout").nth(1).waitFor();
  await log.locator(".stderr").nth(1).waitFor();
  await page.getByText("stderr", { exact: true }).click();
  await until("standard output only", async () => (await log.locator(".stderr").count()) === 0 && (await log.locator(".stdout").count()) > 1);
  await page.getByText("stderr", { exact: true }).click();
  await page.getByRole("textbox", { name: "Filter" }).fill("fail");
  await until("lines that match the filter", async () => (await log.locator(".stdout").count()) === 0 && (await log.locator(".stderr").count()) > 1);
  await page.getByRole("textbox", { name: "Filter" }).fill("");

  // Copy a selection, and paste.
  await type(page, "clear; echo copy-$((40+2))-me");
  await sees(page, "copy-42-me");
  const word = await page.evaluate(() => {
    const box = document.querySelector('.term[data-session="main"] .xterm-screen').getBoundingClientRect();
    return { x: box.left + 20, y: box.top };
  });
  const row = (await screen(page)).split("\n").findIndex((line) => line.startsWith("copy-42-me"));
  const rows = (await screen(page)).split("\n").length;
  const height = await page.evaluate(() => document.querySelector('.term[data-session="main"] .xterm-screen').getBoundingClientRect().height);
  await page.mouse.dblclick(word.x, word.y + ((row + 0.5) * height) / rows);
  await page.keyboard.press("Control+Shift+C");
  const copied = await until("the clipboard", () => page.evaluate(() => navigator.clipboard.readText()));
  check("copy-42-me".includes(copied) && copied.length > 1, `copied: ${copied}`);
  await page.evaluate(() => navigator.clipboard.writeText("echo pasted-$((1+1))"));
  await page.locator('.term[data-session="main"] textarea').focus();
  await page.keyboard.press("Control+Shift+V");
  await sees(page, "echo pasted-");
  await page.keyboard.press("Enter");
  await sees(page, "pasted-2");

  // A file that is dropped on the terminal is uploaded, and its name is typed; a file dropped on the tree is uploaded.
  await drop(page, '.term[data-session="main"]', "drop me.txt", "dropped");
  await sees(page, "'drop me.txt'");
  check((await exec("cat", "drop me.txt")) === "dropped", "the dropped file has its content");
  await page.keyboard.press("Control+c");
  await view(page, "Files");
  await drop(page, ".split:has(> .tree)", "second.txt", "second");
  await page.getByRole("button", { name: "second.txt", exact: true }).waitFor();

  // A file and the whole folder are downloaded.
  const download = async (act) => {
    const [file] = await Promise.all([page.waitForEvent("download"), act()]);
    return { name: file.suggestedFilename(), content: await readFile(await file.path()) };
  };
  const one = await download(async () => {
    await page.getByRole("button", { name: "Actions for second.txt" }).click();
    await page.getByRole("menuitem", { name: "Download", exact: true }).click();
  });
  check(one.name === "second.txt" && one.content.toString() === "second", `downloaded ${one.name}: ${one.content}`);
  const all = await download(() => page.getByRole("button", { name: "Download all" }).click());
  check(all.name === "demo.tar" && all.content.includes("drop me.txt"), `downloaded ${all.name}`);

  // The divider between the panes is moved with keys and with the mouse, and its position is kept.
  const divider = page.getByRole("separator", { name: "Terminal width" });
  await divider.focus();
  for (let step = 0; step < 5; step++) await page.keyboard.press("ArrowLeft");
  check((await divider.getAttribute("aria-valuenow")) === "40", "the divider is moved by keys");
  const box = await divider.boundingBox();
  await page.mouse.move(box.x + box.width / 2, box.y + 100);
  await page.mouse.down();
  await page.mouse.move(box.x - 100, box.y + 100, { steps: 4 });
  await page.mouse.up();
  const width = Number(await divider.getAttribute("aria-valuenow"));
  check(width < 40, `the divider is moved by the mouse: ${width}`);
  await page.reload();
  await divider.waitFor();
  check(Number(await divider.getAttribute("aria-valuenow")) === width, "the divider keeps its position");

  // Port visibility: anyone with the link, public, and members only again.
  await openTerminal(page);
  await put("demo", "serve.py", application);
  await type(page, "clear; python3 serve.py");
  await view(page, "Preview");
  await page.frameLocator("iframe.frame").getByRole("heading", { name: "Come in" }).waitFor();
  const setVisibility = async (visibility) => {
    await page.getByRole("button", { name: "Port settings" }).click();
    await page.getByRole("menuitem", { name: visibility, exact: true }).click();
  };
  const { protocol, host } = new URL(url);
  const address = `${protocol}//demo--3000.${host}/`;
  const headingWithoutSession = async (link) => {
    const guest = await newPage();
    await guest.goto(link);
    const heading = await guest.getByRole("heading").first().innerText();
    await guest.context().close();
    return heading;
  };
  check((await headingWithoutSession(address)) === "Sign in", "a private port requires a sign-in");
  await setVisibility("Anyone with the link");
  const link = await page.getByRole("textbox", { name: "Link" }).inputValue();
  await escape(page);
  check((await headingWithoutSession(link)) === "Come in", `the link ${link} opens the port`);
  check((await headingWithoutSession(address)) !== "Come in", "without the link the port is not accessible");
  await setVisibility("Public");
  await until("a public port", async () => (await api("GET", "/api/projects/demo/ports")).items.some((port) => port.port === 3000 && port.sharing === "public"));
  check((await headingWithoutSession(address)) === "Come in", "a public port is accessible");
  await setVisibility("Members only");
  await until("a private port", async () => (await api("GET", "/api/projects/demo/ports")).items.some((port) => port.port === 3000 && port.sharing === "private"));
  check((await headingWithoutSession(address)) === "Sign in", "a port that is private again requires a sign-in");

  // Where the application forbids to be shown in a frame, the preview says so and opens it in a tab.
  const go = async (path) => {
    await page.getByRole("textbox", { name: "Path" }).fill(path);
    await page.getByRole("button", { name: "Reload" }).click();
  };
  const frame = page.frameLocator("iframe.frame");
  for (const [path, rule] of [["/deny", "X-Frame-Options: DENY"], ["/same-origin", "X-Frame-Options: SAMEORIGIN"], ["/ancestors", "frame-ancestors 'self'"]]) {
    await go(path);
    await frame.getByRole("heading", { name: "This application does not allow being shown in a frame." }).waitFor();
    await frame.getByText(rule).waitFor();
  }
  await screenshot(page, "no-frame");
  const [tab] = await Promise.all([page.waitForEvent("popup"), frame.getByRole("link", { name: "Open in new tab" }).click()]);
  await tab.getByRole("heading", { name: "Come in" }).waitFor();
  check(tab.url() === `${address}ancestors`, `the tab is at ${tab.url()}`);
  await tab.close();
  await go("/");

  // An application that answers only to localhost sees that name as its host.
  await page.frameLocator("iframe.frame").getByText(`Host: demo--3000.${host}`).waitFor();
  await page.getByRole("button", { name: "Port settings" }).click();
  await page.getByRole("menuitem", { name: "localhost:3000", exact: true }).click();
  await page.frameLocator("iframe.frame").getByText("Host: localhost:3000").waitFor();
  await page.getByRole("button", { name: "Port settings" }).click();
  await page.locator('[role=menuitem][aria-current="true"]').and(page.getByRole("menuitem", { name: "localhost:3000", exact: true })).waitFor();
  await screenshot(page, "port-settings");
  await page.keyboard.press("Escape");

  // A path of the private port takes callbacks of other servers.
  await page.getByRole("button", { name: "Port settings" }).click();
  await page.getByRole("menuitem", { name: /^Public paths/ }).click();
  await page.getByRole("textbox", { name: "Public paths" }).fill("/webhook\n/auth/callback\n");
  await page.getByRole("button", { name: "Save", exact: true }).click();
  await page.getByRole("dialog").waitFor({ state: "hidden" });
  const { publicPaths } = await api("GET", "/api/projects/demo/ports/3000");
  check(publicPaths?.join() === "/auth/callback,/webhook", `the public paths are ${publicPaths}`);

  // A phone has buttons for keys that its keyboard lacks.
  const phone = await newPage({ viewport: { width: 390, height: 844 }, hasTouch: true });
  await signIn(phone, await signInLink());
  await phone.goto(`${url}/p/demo?view=terminal`);
  await openTerminal(phone);
  await phone.getByRole("button", { name: "^C", exact: true }).tap();
  await clear(phone);
  await type(phone, "echo p-$((1+1))");
  await sees(phone, "p-2");
  await prompts(phone);
  await phone.getByRole("button", { name: "↑", exact: true }).tap();
  await until("the line before", async () => (await screen(phone)).split("echo p-$((1+1))").length === 3);
  await phone.getByRole("button", { name: "^C", exact: true }).tap();
  await screenshot(phone, "keys");
  await phone.context().close();

  // Changes by `fsa` are shown without a reload.
  await view(page, "Environment");
  await fsa("env", "set", "demo", "FROM_FSA=1");
  await page.getByText("FROM_FSA").waitFor();
  await status(page, "Running");
  await fsa("stop", "demo");
  await status(page, "Stopped");
  await page.context().close();

  // Keyboard only: sign in, create, use, stop and delete a project, sign out.
  const keys = await newPage();
  const press = (...all) => all.reduce((before, key) => before.then(() => keys.keyboard.press(key)), Promise.resolve());
  /** Presses Tab until the element has the focus. */
  const tabTo = async (locator) => {
    for (let step = 0; step < 60; step++) {
      if (await locator.evaluate((element) => element === document.activeElement || element.contains(document.activeElement)).catch(() => false)) return;
      await keys.keyboard.press("Tab");
    }
    throw new Error(`Tab does not reach ${locator}`);
  };
  await keys.goto(await signInLink());
  await tabTo(keys.getByRole("button", { name: "Sign in", exact: true }));
  await press("Enter");
  await keys.getByRole("heading", { name: "Projects" }).waitFor();
  await idle(keys);
  await press("c");
  await keys.getByRole("dialog", { name: "New project" }).waitFor();
  await tabTo(keys.getByLabel("Name", { exact: true }));
  await keys.keyboard.type("typed");
  const template = keys.getByRole("combobox", { name: "Template" });
  await tabTo(template);
  await press("ArrowDown");
  // Which option the next key chooses depends on whether the list has found the current one already.
  await until("the option “Host”", async () => {
    if ((await keys.locator("[data-combobox-selected]", { hasText: /^Host/ }).count()) > 0) return true;
    await press("ArrowDown");
    return false;
  });
  await press("Enter");
  await until("the template “Host”", async () => /^Host/.test(await template.inputValue()));
  await tabTo(keys.getByRole("button", { name: "Create project", exact: true }));
  await press("Enter");
  await keys.waitForURL("**/p/typed");
  await status(keys, "Running");
  await openTerminal(keys);
  await until("the terminal has the focus", () => keys.evaluate(() => document.activeElement?.closest('.term[data-session="main"]') !== null));
  await keys.keyboard.type("echo key-$((1+1))");
  await press("Enter");
  await sees(keys, "key-2");
  const palette = async (query) => {
    await press("Control+Shift+K");
    await hasFocus(keys.getByRole("textbox", { name: "Search projects and commands" }));
    await keys.keyboard.type(query);
    await press("Enter");
  };
  await palette("stop sandbox");
  await status(keys, "Stopped");
  await palette("settings");
  await keys.getByRole("button", { name: "Delete project" }).waitFor();
  await tabTo(keys.getByRole("button", { name: "Delete project" }));
  await press("Enter");
  await keys.getByLabel(/^Type typed/).waitFor();
  await hasFocus(keys.getByRole("dialog"));
  await tabTo(keys.getByLabel(/^Type typed/));
  await keys.keyboard.type("typed");
  await press("Enter");
  await keys.getByRole("heading", { name: "Projects" }).waitFor();
  await keys.getByRole("link", { name: "typed" }).waitFor({ state: "detached" });
  await tabTo(keys.getByRole("button", { name: /account menu/ }));
  await press("Enter");
  await keys.getByRole("menuitem", { name: "Sign out" }).waitFor();
  await until("the last menu item", async () => {
    await press("ArrowDown");
    return keys.evaluate(() => document.activeElement?.textContent === "Sign out");
  });
  await press("Enter");
  await keys.getByRole("heading", { name: "Sign in" }).waitFor();
});
