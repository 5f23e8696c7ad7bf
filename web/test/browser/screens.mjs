// Layout and accessibility of every screen, in dark and light mode and three widths: no horizontal overflow, no
// serious axe violation. Screenshots are written to FSA_SCREENSHOTS.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { api, check, fileServer, openTerminal, put, run, screenshot, sees, signIn, type, until, url } from "./lib.mjs";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const sizes = { phone: { width: 390, height: 844 }, desk: { width: 1280, height: 800 }, wide: { width: 2560, height: 1440 } };
const views = ["preview", "files", "git", "tasks", "logs", "activity", "environment", "database", "snapshots", "settings"];

const greeting = "// Says hello.\nexport function greet(name: string, times = 1): string {\n  return `Hello ${name}! `.repeat(times);\n}\n";
const page3000 = `<!doctype html><meta charset=utf-8><title>Notes</title>
<style>body{font:16px/1.6 system-ui,sans-serif;max-width:32rem;margin:12vh auto;padding:0 1rem;color:#1e242b}h1{font-size:1.6rem}li{margin:.3rem 0}</style>
<h1>Notes</h1><p>Three things to do today.</p><ul><li>Write the report</li><li>Water the plants</li><li>Call the plumber</li></ul>`;

/** `rules`: axe's rules to check, all by default. */
async function inspect(page, name, rules) {
  // Animations must have ended before a screenshot; endless ones are not waited for.
  await page.evaluate(async () => {
    await document.fonts.ready;
    const finite = document.getAnimations().filter((one) => Number.isFinite(one.effect?.getComputedTiming().endTime ?? 0));
    await Promise.allSettled(finite.map((one) => one.finished));
    for (let frame = 0; frame < 2; frame++) await new Promise(requestAnimationFrame);
  });
  await screenshot(page, name);
  const overflow = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  check(overflow <= 0, `${name} is ${overflow} px wider than its window`);
  await page.evaluate(axe);
  const options = { iframes: false, resultTypes: ["violations"], ...(rules ? { runOnly: rules } : {}) };
  const result = await page.evaluate((options) => window.axe.run(document, options), options);
  const serious = result.violations.filter((one) => one.impact === "serious" || one.impact === "critical");
  const messages = serious.map((one) => `${one.id}: ${one.help}\n${one.nodes.slice(0, 4).map((node) => `  ${node.target} ${node.failureSummary?.split("\n")[1] ?? ""}`).join("\n")}`);
  if (messages.length > 0) violations.push(`${name}: ${messages.join("\n")}`);
}
const violations = [];

await run(async ({ newPage }) => {
  // One width per run, to keep a run short.
  const widths = Object.entries(sizes).filter(([size]) => !process.argv[2] || size === process.argv[2]);
  for (const [size, viewport] of widths) {
    for (const scheme of ["dark", "light"]) {
      const signInPage = await newPage({ viewport, colorScheme: scheme });
      await signInPage.goto(`${url}/sign-in`);
      await signInPage.getByRole("heading", { name: "Sign in" }).waitFor();
      await inspect(signInPage, `sign-in-${size}-${scheme}`);
      await signIn(signInPage);
      await signInPage.getByRole("heading", { name: "Welcome to FullStack Agent" }).waitFor();
      await signInPage.locator("[data-check]").or(signInPage.getByText("All checks passed.")).first().waitFor();
      await inspect(signInPage, `first-${size}-${scheme}`);
      await signInPage.context().close();
    }
  }

  await api("POST", "/api/projects", { name: "notes", template: "host", description: "A page of notes", startCommand: "python3 -u serve.py", envVars: { API_KEY: "k-1", GREETING: "hello" } });
  await api("POST", "/api/projects", { name: "shop", template: "host", start: false });
  await api("POST", "/api/projects", { name: "broken", image: "example.invalid/none:1" });
  await until("the project is running", async () => (await api("GET", "/api/projects/notes")).sandbox?.status === "RUNNING");
  await put("notes", "serve.py", fileServer);
  await put("notes", "index.html", page3000);
  await put("notes", "src/app.ts", greeting);
  await api("POST", "/api/projects/notes/exec", { command: ["psql", "-c", "create table notes (id serial primary key, text text); insert into notes(text) values ('Write the report'), ('Water the plants')"] });
  await api("POST", "/api/projects/notes/restart");
  await until("its port", async () => {
    const { sandbox } = await api("GET", "/api/projects/notes");
    return sandbox?.status === "RUNNING" && sandbox.ports.some((port) => port.port === 3000);
  });
  for (const name of ["before the upgrade", undefined]) await api("POST", "/api/projects/notes/snapshots", { name });
  await put("notes", "src/app.ts", `${greeting}export const version = 2;\n`);
  await until("the error", async () => (await api("GET", "/api/projects/broken")).sandbox?.status === "ERROR");

  for (const [size, viewport] of widths) {
    for (const scheme of ["dark", "light"]) {
      const page = await newPage({ viewport, colorScheme: scheme, hasTouch: size === "phone" });
      const inspectScreen = (name, rules) => inspect(page, `${name}-${size}-${scheme}`, rules);
      await signIn(page);
      await page.locator('[data-project="notes"]').waitFor();
      await inspectScreen("projects");
      await page.getByRole("button", { name: "New project" }).first().click();
      await page.getByLabel("Name", { exact: true }).fill("my app");
      await inspectScreen("create");
      await page.keyboard.press("Escape");
      await page.goto(`${url}/p/broken`);
      await page.getByRole("list", { name: "Stages" }).waitFor();
      await inspectScreen("broken");
      await page.goto(`${url}/p/shop`);
      await page.getByRole("heading", { name: "Sandbox stopped" }).or(page.getByRole("heading", { name: "No sandbox" })).waitFor();
      await inspectScreen("stopped");
      if (size === "phone") {
        await page.goto(`${url}/p/notes`);
        await openTerminal(page);
        await type(page, "clear; ls");
        await sees(page, "serve.py");
        await inspectScreen("terminal");
      }
      for (const view of views) {
        await page.goto(`${url}/p/notes?view=${view}`);
        await page.getByRole("tab", { name: view, exact: false, selected: true }).last().waitFor();
        if (size !== "phone") await openTerminal(page);
        if (size !== "phone" && view === views[0]) {
          await type(page, "clear; ls; psql -c 'table notes'");
          await sees(page, "(2 rows)");
        }
        if (view === "preview") await page.frameLocator("iframe.frame").getByRole("heading", { name: "Notes" }).waitFor();
        if (view === "files") {
          await page.getByRole("button", { name: "src", exact: true }).click();
          await page.getByRole("button", { name: "app.ts", exact: true }).click();
          await page.getByRole("textbox", { name: "Content of src/app.ts" }).waitFor();
        }
        if (view === "git") await page.getByText("Not a git repository").waitFor();
        if (view === "tasks") await page.getByLabel("Prompt").waitFor();
        if (view === "database") await page.getByRole("cell", { name: "notes", exact: true }).waitFor();
        if (view === "snapshots") {
          await page.getByRole("button", { name: "Changes since before the upgrade" }).click();
          await page.locator('[data-change="changed"]', { hasText: "app.ts" }).waitFor();
        }
        if (view === "activity") await page.getByRole("list", { name: "Events" }).getByRole("listitem").first().waitFor();
        if (view === "logs") await page.getByText("Listening on port 3000").first().waitFor();
        if (view === "environment") await page.getByRole("button", { name: "Paste .env" }).waitFor();
        if (view === "environment") await page.getByText("API_KEY").first().waitFor();
        if (view === "settings") await page.getByRole("button", { name: "Delete project" }).waitFor();
        await inspectScreen(view);
        if (view === "snapshots") {
          await page.getByRole("button", { name: "Restore before the upgrade" }).click();
          await page.getByRole("dialog", { name: "Restore snapshot?" }).getByRole("list", { name: "Effects" }).waitFor();
          await inspectScreen("restore");
          await page.getByRole("button", { name: "Cancel" }).click();
        }
        if (view === "files") {
          await page.getByRole("textbox", { name: "Content of src/app.ts" }).click();
          await page.keyboard.type("// unsaved");
          await put("notes", "src/app.ts", `${greeting}// Changed at ${size} and ${scheme}.\n`);
          await page.getByText("The file has changed since you opened it").waitFor();
          await inspectScreen("conflict");
          await page.getByRole("button", { name: "Discard my changes" }).click();
          await page.getByText("The file has changed since you opened it").waitFor({ state: "detached" });
          await page.getByRole("button", { name: "Actions for app.ts" }).click();
          await page.getByRole("menuitem", { name: "Delete" }).waitFor();
          // Mantine's dropdown has another element beside its items, which axe takes for an item.
          await inspectScreen("file-menu", ["color-contrast"]);
          await page.keyboard.press("Escape");
        }
      }
      await page.keyboard.press("Control+Shift+K");
      await page.getByRole("listbox", { name: "Commands" }).waitFor();
      await inspectScreen("palette");
      await page.goto(`${url}/account`);
      await page.getByText("current session").waitFor();
      await inspectScreen("account");
      await page.goto(`${url}/administration`);
      await page.getByText("1 user").waitFor();
      await inspectScreen("users");
      await page.getByRole("tab", { name: "Images" }).click();
      await page.getByText("No images are stored.").waitFor();
      await page.getByRole("tab", { name: "System" }).click();
      await page.locator('[data-usage="notes"]').waitFor();
      await page.locator('[data-check="kernel"]').waitFor();
      await inspectScreen("system");
      await page.getByRole("tab", { name: "Audit log" }).click();
      await page.getByText("project.create").or(page.getByRole("cell").first()).first().waitFor();
      await inspectScreen("audit");
      await page.context().close();
    }
  }
  check(violations.length === 0, `serious axe violations:\n${violations.join("\n")}`);
});
