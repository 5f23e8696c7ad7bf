// A project's life, by a person at a browser: made, worked in, seen, configured, stopped, deleted.
import { api, check, createProject, openTerminal, sees, shoot, signIn, status, story, type, until } from "./lib.mjs";

const view = (page, name) => page.getByRole("tab", { name, exact: true }).click();

await story(async ({ person }) => {
  const page = await person();
  await signIn(page);
  await page.getByRole("heading", { name: "Make your first project" }).waitFor();

  // The rule of a name is said while it is typed, and another is offered.
  await page.getByRole("button", { name: "New project" }).first().click();
  await page.getByLabel("Name", { exact: true }).fill("My App");
  await page.getByText("It begins with a small letter.").waitFor();
  await page.getByRole("button", { name: "my-app", exact: true }).waitFor();
  await page.keyboard.press("Escape");

  // Five stages, and then a terminal that takes keys.
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

  // A file that the terminal made is opened, changed and saved; the terminal reads the change.
  await type(page, "echo '<h1>one</h1>' > index.html; clear");
  await view(page, "Files");
  await page.getByRole("button", { name: "index.html", exact: true }).click();
  const editor = page.getByRole("textbox", { name: "Content of index.html" });
  await editor.getByText("<h1>one</h1>").waitFor();
  await editor.click();
  await page.keyboard.press("Control+a");
  await page.keyboard.type("<h1>two</h1>");
  await page.keyboard.press("Control+s");
  await page.getByRole("button", { name: "Save", exact: true }).and(page.locator("[disabled]")).waitFor();
  await type(page, "cat index.html");
  await sees(page, "<h1>two</h1>");

  // What somebody else changed meanwhile is not overwritten unseen.
  await type(page, "clear; echo three > index.html; echo chan''ged");
  await sees(page, "changed");
  await editor.click();
  await page.keyboard.type("x");
  await page.keyboard.press("Control+s");
  await page.getByText("The file was changed meanwhile").waitFor();
  await page.getByRole("button", { name: "Read it again, drop mine" }).click();
  await editor.getByText("three").waitFor();

  // A server in the terminal appears in the preview by itself, and is seen.
  await view(page, "Preview");
  await page.getByText("Nothing listens yet").waitFor();
  await type(page, "clear; echo '<h1>Seen from outside</h1>' > index.html; python3 -m http.server 3000");
  await page.getByRole("combobox", { name: "Port" }).waitFor();
  await page.frameLocator("iframe.frame").getByRole("heading", { name: "Seen from outside" }).waitFor();
  await shoot(page, "preview");

  // What is changed in the editor is seen there.
  await view(page, "Files");
  await page.getByRole("button", { name: "index.html", exact: true }).click();
  await editor.getByText("Seen from outside").waitFor();
  await editor.click();
  await page.keyboard.press("Control+a");
  await page.keyboard.type("<h1>Changed in the editor</h1>");
  await page.keyboard.press("Control+s");
  await page.getByRole("button", { name: "Save", exact: true }).and(page.locator("[disabled]")).waitFor();
  await view(page, "Preview");
  await page.frameLocator("iframe.frame").getByRole("heading", { name: "Changed in the editor" }).waitFor();
  await page.locator('.term[data-session="main"] textarea').focus();
  await page.keyboard.press("Control+c");

  // Variables from a pasted file; the restart that they need is announced, and they arrive.
  await view(page, "Environment");
  await page.getByRole("button", { name: "Paste .env" }).click();
  await page.getByRole("textbox", { name: ".env" }).fill("# a comment\nexport GREETING='hello there'\n");
  await page.getByRole("button", { name: "Set 1 variable" }).click();
  await page.getByText("The sandbox restarts with the new variables.").waitFor();
  await page.getByText("••••").first().waitFor();
  await page.getByRole("button", { name: "Reveal values" }).click();
  await page.getByText("hello there").waitFor();
  await until("the restart", async () => {
    const answer = await api("POST", "/api/projects/first/exec", { command: ["printenv", "GREETING"] }).catch(() => undefined);
    return answer?.stdout === "hello there\n";
  });
  await status(page, "Running");

  // The database: its tables at a glance, and psql in a tab.
  await view(page, "Database");
  await api("POST", "/api/projects/first/exec", { command: ["psql", "-c", "create table visits (id int); insert into visits values (1), (2)"] });
  await page.getByRole("button", { name: "Look again" }).click();
  await page.getByRole("cell", { name: "visits", exact: true }).waitFor();
  await page.getByRole("cell", { name: "2", exact: true }).waitFor();
  await page.getByRole("button", { name: "psql in a terminal" }).click();
  await openTerminal(page, "psql");
  await sees(page, "=>", "psql");

  // What happened is told in words.
  await view(page, "Activity");
  await page.getByRole("list", { name: "Events" }).getByRole("listitem").nth(4).waitFor();

  // A stop and a start, the first with a button, the second from the command palette.
  await page.getByRole("button", { name: "Stop", exact: true }).click();
  await status(page, "Stopped");
  await page.getByRole("heading", { name: "The sandbox is stopped" }).waitFor();
  await page.keyboard.press("Control+k");
  await page.getByRole("textbox", { name: "Project or command" }).fill("start");
  await page.keyboard.press("Enter");
  await status(page, "Running");
  await openTerminal(page);
  await type(page, "cat index.html");
  await sees(page, "Changed in the editor");

  // A change from elsewhere arrives without a reload; how soon is measured by bench.mjs.
  await page.evaluate(() => (window.sameDocument = true));
  await api("POST", "/api/projects/first/stop");
  await status(page, "Stopped");
  check(await page.evaluate(() => window.sameDocument), "the page was loaded anew");

  // It is deleted by typing its name, and the list is empty again.
  await view(page, "Settings");
  await page.getByRole("button", { name: "Delete this project" }).click();
  const remove = page.getByRole("button", { name: "Delete", exact: true });
  check(await remove.isDisabled(), "nothing is deleted before the name is typed");
  await page.getByLabel(/^Type first/).fill("first");
  await remove.click();
  await page.getByRole("heading", { name: "Make your first project" }).waitFor();

  // Signing out leaves nothing behind.
  await page.getByRole("button", { name: "Account menu" }).click();
  await page.getByRole("menuitem", { name: "Sign out" }).click();
  await page.getByRole("heading", { name: "Sign in" }).waitFor();
  await page.goto(new URL("/p/first", page.url()).href);
  await page.getByRole("heading", { name: "Sign in" }).waitFor();
});
