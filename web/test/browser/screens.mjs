// Every screen, in dark and light and three widths: nothing is wider than its page, axe finds
// nothing serious, and pictures are kept where FSA_SHOTS says.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { api, check, openTerminal, sees, shoot, signIn, story, type, until, url } from "./lib.mjs";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const sizes = { phone: { width: 390, height: 844 }, desk: { width: 1280, height: 800 }, wide: { width: 2560, height: 1440 } };
const views = ["preview", "files", "git", "tasks", "logs", "activity", "environment", "database", "settings"];

const program = `
import http.server, sys
print("Listening on port 3000", flush=True)
class H(http.server.SimpleHTTPRequestHandler):
    def log_message(self, form, *rest): print("GET", self.path, flush=True)
http.server.ThreadingHTTPServer(("", 3000), H).serve_forever()
`;
const page3000 = `<!doctype html><meta charset=utf-8><title>Notes</title>
<style>body{font:16px/1.6 system-ui,sans-serif;max-width:32rem;margin:12vh auto;padding:0 1rem;color:#1e242b}h1{font-size:1.6rem}li{margin:.3rem 0}</style>
<h1>Notes</h1><p>Three things to do today.</p><ul><li>Write the report</li><li>Water the plants</li><li>Call the plumber</li></ul>`;

async function put(path, content) {
  const answer = await fetch(`${url}/api/projects/notes/files?path=${path}`, { method: "PUT", headers: { authorization: `Bearer ${process.env.FSA_TOKEN}` }, body: content });
  check(answer.ok, `PUT ${path}: ${answer.status}`);
}

async function look(page, name) {
  // A picture of a page that moves is of no use: what moves by itself for ever is left out.
  await page.evaluate(async () => {
    await document.fonts.ready;
    const ending = document.getAnimations().filter((one) => Number.isFinite(one.effect?.getComputedTiming().endTime ?? 0));
    await Promise.allSettled(ending.map((one) => one.finished));
    for (let frame = 0; frame < 2; frame++) await new Promise(requestAnimationFrame);
  });
  await shoot(page, name);
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  check(wide <= 0, `${name} is ${wide} px wider than its window`);
  await page.evaluate(axe);
  const found = await page.evaluate(() => window.axe.run(document, { iframes: false, resultTypes: ["violations"] }));
  const serious = found.violations.filter((one) => one.impact === "serious" || one.impact === "critical");
  const words = serious.map((one) => `${one.id}: ${one.help}\n${one.nodes.slice(0, 4).map((node) => `  ${node.target} ${node.failureSummary?.split("\n")[1] ?? ""}`).join("\n")}`);
  if (words.length > 0) faults.push(`${name}: ${words.join("\n")}`);
}
const faults = [];

await story(async ({ person }) => {
  // One width for each run, so that a run is short.
  const widths = Object.entries(sizes).filter(([size]) => !process.argv[2] || size === process.argv[2]);
  for (const [size, viewport] of widths) {
    for (const scheme of ["dark", "light"]) {
      const first = await person({ viewport, colorScheme: scheme });
      await first.goto(`${url}/sign-in`);
      await first.getByRole("heading", { name: "Sign in" }).waitFor();
      await look(first, `sign-in-${size}-${scheme}`);
      await signIn(first);
      await first.getByRole("heading", { name: "Welcome to FullStack Agent" }).waitFor();
      await first.locator("[data-check]").or(first.getByText("Everything that projects need is here.")).first().waitFor();
      await look(first, `first-${size}-${scheme}`);
      await first.context().close();
    }
  }

  await api("POST", "/api/projects", { name: "notes", template: "host", description: "A page of notes", startCommand: "python3 -u serve.py", envVars: { API_KEY: "k-1", GREETING: "hello" } });
  await api("POST", "/api/projects", { name: "shop", template: "host", start: false });
  await api("POST", "/api/projects", { name: "broken", image: "example.invalid/none:1" });
  await until("it runs", async () => (await api("GET", "/api/projects/notes")).sandbox?.status === "RUNNING");
  await put("serve.py", program);
  await put("index.html", page3000);
  await put("src/app.ts", "// Says hello.\nexport function greet(name: string, times = 1): string {\n  return `Hello ${name}! `.repeat(times);\n}\n");
  await api("POST", "/api/projects/notes/exec", { command: ["psql", "-c", "create table notes (id serial primary key, text text); insert into notes(text) values ('Write the report'), ('Water the plants')"] });
  await api("POST", "/api/projects/notes/restart");
  await until("its port", async () => (await api("GET", "/api/projects/notes")).sandbox?.ports.some((port) => port.port === 3000));
  await until("the error", async () => (await api("GET", "/api/projects/broken")).sandbox?.status === "ERROR");

  for (const [size, viewport] of widths) {
    for (const scheme of ["dark", "light"]) {
      const page = await person({ viewport, colorScheme: scheme, hasTouch: size === "phone" });
      const see = (name) => look(page, `${name}-${size}-${scheme}`);
      await signIn(page);
      await page.locator('[data-project="notes"]').waitFor();
      await see("projects");
      await page.getByRole("button", { name: "New project" }).first().click();
      await page.getByLabel("Name", { exact: true }).fill("my app");
      await see("create");
      await page.keyboard.press("Escape");
      await page.goto(`${url}/p/broken`);
      await page.getByRole("list", { name: "Stages" }).waitFor();
      await see("broken");
      await page.goto(`${url}/p/shop`);
      await page.getByRole("heading", { name: "The sandbox is stopped" }).or(page.getByRole("heading", { name: "There is no sandbox" })).waitFor();
      await see("stopped");
      if (size === "phone") {
        await page.goto(`${url}/p/notes`);
        await openTerminal(page);
        await type(page, "clear; ls");
        await sees(page, "serve.py");
        await see("terminal");
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
        if (view === "git") await page.getByText("is no git repository yet").waitFor();
        if (view === "tasks") await page.getByLabel("What is to be done").waitFor();
        if (view === "database") await page.getByRole("cell", { name: "notes", exact: true }).waitFor();
        if (view === "activity") await page.getByRole("list", { name: "Events" }).getByRole("listitem").first().waitFor();
        if (view === "logs") await page.getByText("Listening on port 3000").first().waitFor();
        if (view === "environment") await page.getByRole("button", { name: "Paste .env" }).waitFor();
        if (view === "environment") await page.getByText("API_KEY").first().waitFor();
        if (view === "settings") await page.getByRole("button", { name: "Delete this project" }).waitFor();
        await see(view);
      }
      await page.keyboard.press("Control+k");
      await page.getByRole("listbox", { name: "Commands" }).waitFor();
      await see("palette");
      await page.goto(`${url}/account`);
      await page.getByText("this one").waitFor();
      await see("account");
      await page.goto(`${url}/administration`);
      await page.getByText("You are the only one here.").waitFor();
      await see("users");
      await page.getByRole("tab", { name: "System" }).click();
      await page.locator('[data-use="notes"]').waitFor();
      await page.locator('[data-check="kernel"]').waitFor();
      await see("system");
      await page.getByRole("tab", { name: "Audit" }).click();
      await page.getByText("project.create").or(page.getByRole("cell").first()).first().waitFor();
      await see("audit");
      await page.context().close();
    }
  }
  check(faults.length === 0, `axe found what is serious:\n${faults.join("\n")}`);
});
