// Project lifecycle: create, terminal, files, preview, environment, database, stop, start, delete.
import { api, check, createProject, fileServer, openTerminal, put, run, save, screen, screenshot, sees, signIn, status, type, until } from "./lib.mjs";

/** Opens a popup and shows its message, and has a link to the top. */
const appPage = `<!doctype html><h1>Another page</h1>
<button onclick="window.open('popup.html')">Sign in with another site</button>
<a target="_top" href="/elsewhere">Leave</a>
<button onclick="show('after Leave')">Stay</button>
<script>
const show = (text) => { document.querySelector("h1").textContent = text; };
addEventListener("message", ({ data }) => show(data + " from a popup"));
</script>`;

const view = (page, name) => page.getByRole("tab", { name, exact: true }).click();

await run(async ({ newPage }) => {
  const page = await newPage();
  await signIn(page);
  await page.getByRole("heading", { name: "Create your first project" }).waitFor();

  // An invalid name is reported while it is typed, and a valid one is suggested.
  await page.getByRole("button", { name: "New project" }).first().click();
  await page.getByLabel("Name", { exact: true }).fill("My App");
  await page.getByText("The name must start with a lowercase letter.").waitFor();
  await page.getByRole("button", { name: "my-app", exact: true }).waitFor();
  await page.keyboard.press("Escape");

  // Five stages, and then a terminal that accepts input.
  await createProject(page, "first");
  const stages = page.getByRole("list", { name: "Stages" });
  const terminal = page.locator('.term[data-session="main"]');
  await stages.or(terminal).first().waitFor();
  await status(page, "Running");
  const listed = (await api("GET", "/api/projects/first")).sandbox.stages;
  check(listed.length === 5 && listed.every((stage) => stage.state === "done"), "five stages are done");
  await openTerminal(page);
  await type(page, "echo $((6*7))-$((1+1))");
  await sees(page, "42-2");

  // A file that was created in the terminal is opened, edited and saved; the terminal reads the change.
  await type(page, "echo '<h1>one</h1>' > index.html; clear");
  await view(page, "Files");
  await page.getByRole("button", { name: "index.html", exact: true }).click();
  const editor = page.getByRole("textbox", { name: "Content of index.html" });
  await editor.getByText("<h1>one</h1>").waitFor();
  await editor.click();
  await page.keyboard.press("Control+a");
  await page.keyboard.type("<h1>two</h1>");
  await save(page);
  await type(page, "cat index.html");
  await sees(page, "<h1>two</h1>");

  // A concurrent change of the file is not overwritten silently.
  await editor.click();
  await page.keyboard.type("x");
  await type(page, "clear; echo three > index.html; echo chan''ged");
  await sees(page, "changed");
  await editor.click();
  await page.keyboard.press("Control+s");
  await page.getByText("The file has changed since you opened it").waitFor();
  await page.getByRole("button", { name: "Discard my changes" }).click();
  await editor.getByText("three").waitFor();

  // A server that is started in the terminal appears in the preview automatically.
  await view(page, "Preview");
  await page.getByText("No open ports yet").waitFor();
  await put("first", "serve.py", fileServer);
  await type(page, "clear; echo '<h1>Seen from outside</h1>' > index.html; python3 serve.py");
  await page.getByRole("combobox", { name: "Port" }).waitFor();
  await page.frameLocator("iframe.frame").getByRole("heading", { name: "Seen from outside" }).waitFor();
  await screenshot(page, "preview");

  // The preview shows a change from the editor.
  await view(page, "Files");
  await page.getByRole("button", { name: "index.html", exact: true }).click();
  await editor.getByText("Seen from outside").waitFor();
  await editor.click();
  await page.keyboard.press("Control+a");
  await page.keyboard.type("<h1>Changed in the editor</h1>");
  await save(page);
  await view(page, "Preview");
  await page.frameLocator("iframe.frame").getByRole("heading", { name: "Changed in the editor" }).waitFor();

  // The address bar opens another path with Enter, and with Reload.
  const app = page.frameLocator("iframe.frame");
  await put("first", "other.html", appPage);
  await put("first", "popup.html", "<script>opener.postMessage('hello', '*')</script>");
  await page.getByRole("textbox", { name: "Path" }).fill("other.html");
  await page.keyboard.press("Enter");
  await app.getByRole("heading", { name: "Another page" }).waitFor();
  await page.getByRole("textbox", { name: "Path" }).fill("/index.html");
  await page.getByRole("button", { name: "Reload" }).click();
  await app.getByRole("heading", { name: "Changed in the editor" }).waitFor();

  // A popup of the application knows its opener, and a link to the top leaves the workspace where it is.
  await page.getByRole("textbox", { name: "Path" }).fill("/other.html");
  await page.keyboard.press("Enter");
  await app.getByRole("button", { name: "Sign in with another site" }).click();
  await app.getByRole("heading", { name: "hello from a popup" }).waitFor();
  await app.getByRole("link", { name: "Leave" }).click();
  await app.getByRole("button", { name: "Stay" }).click();
  await app.getByRole("heading", { name: "after Leave" }).waitFor();
  check(page.url().includes("/p/first"), `the page is at ${page.url()}`);
  await page.locator('.term[data-session="main"] textarea').focus();
  await page.keyboard.press("Control+c");

  // Variables from a pasted file: the page announces the restart, and the variables are set.
  await view(page, "Environment");
  await page.getByRole("button", { name: "Paste .env" }).click();
  await page.getByRole("textbox", { name: ".env" }).fill("# a comment\nexport GREETING='hello there'\n");
  await page.getByRole("button", { name: "Set 1 variable" }).click();
  await page.getByText("The sandbox is restarting with the new variables.").waitFor();
  await page.getByText("••••").first().waitFor();
  await page.getByRole("button", { name: "Reveal values" }).click();
  await page.getByText("hello there").waitFor();
  await until("the restart", async () => {
    const result = await api("POST", "/api/projects/first/exec", { command: ["printenv", "GREETING"] }).catch(() => undefined);
    return result?.stdout === "hello there\n";
  });
  await status(page, "Running");

  // The database: its tables, and psql in a terminal tab.
  await view(page, "Database");
  await api("POST", "/api/projects/first/exec", { command: ["psql", "-c", "create table visits (id int); insert into visits values (1), (2)"] });
  await page.getByRole("button", { name: "Refresh" }).click();
  await page.getByRole("cell", { name: "visits", exact: true }).waitFor();
  await page.getByRole("cell", { name: "2", exact: true }).waitFor();
  await page.getByRole("button", { name: "Open psql" }).click();
  await openTerminal(page, "psql");
  await sees(page, "=#", "psql");

  // psql is not started in psql, also after the terminal has connected again.
  const asked = page.waitForResponse((response) => response.url().endsWith("/terminals"));
  await page.getByRole("button", { name: "Open psql" }).click();
  await asked;
  await page.reload();
  await openTerminal(page, "psql");
  await sees(page, "=#", "psql");
  await type(page, "select 6 * 7 as answer;", "psql");
  await sees(page, "42", "psql");
  check(!(await screen(page, "psql")).includes("=> psql"), "nothing is typed into psql");

  // In a URL with the project's id the id stays.
  const { id } = await api("GET", "/api/projects/first");
  await page.goto(new URL(`/p/${id}?view=database`, page.url()).href);
  await view(page, "Activity");
  await page.waitForURL(`**/p/${id}?view=activity`);
  await page.goto(new URL("/p/first?view=activity", page.url()).href);

  // The activity lists events.
  await view(page, "Activity");
  await page.getByRole("list", { name: "Events" }).getByRole("listitem").nth(4).waitFor();

  // Stop with the button, start from the command palette. psql ended with the sandbox and does not come back, also when
  // the page was not notified before the sandbox had stopped.
  await page.route("**/terminals", (route) => route.abort());
  await page.getByRole("button", { name: "Stop", exact: true }).click();
  await status(page, "Stopped");
  await page.unroute("**/terminals");
  await page.getByRole("heading", { name: "Sandbox stopped" }).waitFor();
  await page.keyboard.press("Control+k");
  await page.getByRole("textbox", { name: "Search projects and commands" }).fill("start");
  await page.getByRole("option", { name: /^Start sandbox/ }).waitFor();
  await page.keyboard.press("Enter");
  await status(page, "Running");
  await openTerminal(page);
  await type(page, "cat index.html");
  await sees(page, "Changed in the editor");

  // A change by another client arrives without a reload; bench.mjs measures how soon.
  await page.evaluate(() => (window.sameDocument = true));
  await api("POST", "/api/projects/first/stop");
  await status(page, "Stopped");
  check(await page.evaluate(() => window.sameDocument), "the page was reloaded");

  // Deletion requires typing the project's name; the list is then empty again.
  await view(page, "Settings");
  await page.getByRole("button", { name: "Delete project" }).click();
  const remove = page.getByRole("button", { name: "Delete", exact: true });
  check(await remove.isDisabled(), "the button is disabled before the name is typed");
  await page.getByLabel(/^Type first/).fill("first");
  await remove.click();
  await page.getByRole("heading", { name: "Create your first project" }).waitFor();

  // After signing out no page of the project can be opened.
  await page.getByRole("button", { name: "Account menu" }).click();
  await page.getByRole("menuitem", { name: "Sign out" }).click();
  await page.getByRole("heading", { name: "Sign in" }).waitFor();
  await page.goto(new URL("/p/first", page.url()).href);
  await page.getByRole("heading", { name: "Sign in" }).waitFor();
});
