// Editor: unsaved text is kept over other views, a reload, a rename and a stop; a file without unsaved text follows the
// disk; saved bytes are those that were edited; nothing is replaced without a question.
import { api, check, drop, openTerminal, put, run, save, screenshot, signIn, status, until, url } from "./lib.mjs";

const view = (page, name) => page.getByRole("tab", { name, exact: true }).click();
const exec = async (command) => (await api("POST", "/api/projects/edit/exec", { command: ["bash", "-c", command] })).stdout;

await run(async ({ newPage }) => {
  const page = await newPage();
  await signIn(page);
  await api("POST", "/api/projects", { name: "edit", template: "host" });
  await until("the project is running", async () => (await api("GET", "/api/projects/edit")).sandbox?.status === "RUNNING");
  await put("edit", "a.txt", "one\n");
  await put("edit", "b.txt", "bee\n");
  await put("edit", "folder/deep.txt", "deep\n");
  await page.goto(`${url}/p/edit?view=files`);
  await openTerminal(page);
  const file = (name) => page.getByRole("button", { name, exact: true });
  const editor = (path) => page.getByRole("textbox", { name: `Content of ${path}` });
  const typeAt = async (path, key, text) => {
    await editor(path).click();
    await page.keyboard.press(key);
    await page.keyboard.type(text);
  };
  const menu = async (name, item) => {
    await page.getByRole("button", { name: `Actions for ${name}` }).click();
    await page.getByRole("menuitem", { name: item, exact: true }).click();
  };

  // A file without unsaved text follows the disk, and the cursor stays in its place.
  await file("a.txt").click();
  await editor("a.txt").getByText("one").waitFor();
  await editor("a.txt").click();
  await page.keyboard.press("Control+Home");
  await page.keyboard.press("End");
  // As a whole: the page may read the file while it is being written.
  await exec("printf 'zero\\none\\n' > new.txt && mv new.txt a.txt");
  await editor("a.txt").getByText("zero").waitFor();
  await page.keyboard.type("!");
  await editor("a.txt").getByText("one!").waitFor();

  // Unsaved text is there again after another file, another view and a reload.
  await file("b.txt").click();
  await editor("b.txt").getByText("bee").waitFor();
  await page.getByLabel("a.txt is not saved").waitFor();
  await file("folder").click();
  await file("deep.txt").click();
  await typeAt("folder/deep.txt", "Control+Home", "unsaved ");
  await view(page, "Database");
  await view(page, "Files");
  await editor("folder/deep.txt").getByText("unsaved deep").waitFor();
  await page.keyboard.press("Tab");
  const dialogs = [];
  page.on("dialog", (dialog) => {
    dialogs.push(dialog.type());
    void dialog.accept();
  });
  await page.reload();
  await editor("folder/deep.txt").getByText("unsaved deep").waitFor();
  await page.getByRole("button", { name: "2 unsaved files" }).click();
  await screenshot(page, "unsaved");
  await page.getByRole("menuitem", { name: "a.txt" }).click();
  await editor("a.txt").getByText("one!").waitFor();
  check(dialogs.length === 0, `stored text needs no question: ${dialogs}`);

  // So it is after its folder was renamed, and after the sandbox was stopped by another user.
  await menu("folder", "Rename or move");
  await page.getByLabel("New path").fill("moved");
  await page.getByRole("button", { name: "Rename", exact: true }).click();
  await file("moved").waitFor();
  await file("deep.txt").click();
  await editor("moved/deep.txt").getByText("unsaved deep").waitFor();
  await api("POST", "/api/projects/edit/stop");
  await page.getByText("The unsaved changes of 2 files are kept.").waitFor();
  await api("POST", "/api/projects/edit/start");
  await status(page, "Running");
  await editor("moved/deep.txt").getByText("unsaved deep").waitFor();
  await editor("moved/deep.txt").click();
  await save(page);
  check((await exec("cat moved/deep.txt")) === "unsaved deep\n", "the renamed file is saved");

  // A file that was deleted meanwhile is not lost, and a discarded text was asked for.
  await exec("rm a.txt");
  await page.getByRole("button", { name: "1 unsaved file" }).click();
  await page.getByRole("menuitem", { name: "a.txt" }).click();
  await page.getByText("The file was deleted or renamed since you opened it").waitFor();
  await page.getByRole("button", { name: "Save it again" }).click();
  await until("the file is back", async () => (await exec("cat a.txt")) === "zero\none!\n");
  await typeAt("a.txt", "Control+Home", "x");
  await page.getByRole("button", { name: "Discard", exact: true }).click();
  await page.getByRole("dialog", { name: "Discard unsaved changes?" }).getByRole("button", { name: "Discard" }).click();
  await editor("a.txt").getByText("xzero").waitFor({ state: "detached" });
  await editor("a.txt").getByText("zero").waitFor();

  // Text that the browser has no room for is asked about before it is lost.
  await page.evaluate(() => {
    for (let length = 4_000_000; length >= 1; length = Math.floor(length / 2)) {
      try {
        for (let part = 0; ; part++) localStorage.setItem(`full.${length}.${part}`, "x".repeat(length));
      } catch {
        // It is full for this length.
      }
    }
  });
  await typeAt("a.txt", "Control+Home", "y");
  await page.getByText("These changes are only in this page until you save them").waitFor();
  await page.reload();
  check(dialogs.join() === "beforeunload", `the questions were ${dialogs}`);
  await page.evaluate(() => {
    for (const key of Object.keys(localStorage)) if (key.startsWith("full.")) localStorage.removeItem(key);
  });
  await editor("a.txt").getByText("zero").waitFor();

  // Only the edited line of a file with mixed line endings changes.
  await put("edit", "mixed.txt", "\ufeffa\r\nb\nc\r\nd");
  await page.getByRole("button", { name: "Refresh" }).click();
  await file("mixed.txt").click();
  await typeAt("mixed.txt", "Control+End", "!");
  await save(page);
  check((await exec("od -An -c mixed.txt | tr -s ' \\n' ' '")).trim() === "357 273 277 a \\r \\n b \\n c \\r \\n d !", await exec("od -An -c mixed.txt"));

  // A file in another encoding is not shown as if it were UTF-8.
  await exec("printf '\\351t\\351' > latin1.txt");
  await page.getByRole("button", { name: "Refresh" }).click();
  await file("latin1.txt").click();
  await page.getByText("This file is not UTF-8 text").waitFor();

  // A new file, an upload and a drop replace nothing without a question.
  await exec("echo precious > keep.txt");
  await page.getByRole("button", { name: "Refresh" }).click();
  await page.getByRole("button", { name: "New file" }).click();
  await page.getByRole("textbox", { name: "Path" }).fill("keep.txt");
  await page.getByRole("button", { name: "Create", exact: true }).click();
  await page.getByText("keep.txt exists already.").waitFor();
  await page.getByRole("button", { name: "Open the existing file" }).click();
  await editor("keep.txt").getByText("precious").waitFor();
  const replace = page.getByRole("dialog", { name: "Replace keep.txt?" });
  await drop(page, '.term[data-session="main"]', "keep.txt", "dropped");
  await replace.getByRole("button", { name: "Cancel" }).click();
  await replace.waitFor({ state: "detached" });
  check((await exec("cat keep.txt")) === "precious\n", "the file is kept");
  await drop(page, ".split:has(> .tree)", "keep.txt", "replaced");
  await screenshot(page, "replace");
  await replace.getByRole("button", { name: "Replace" }).click();
  await until("the file is replaced", async () => (await exec("cat keep.txt")) === "replaced");
  await editor("keep.txt").getByText("replaced").waitFor();

  // A folder is made, and none is made twice.
  await page.getByRole("button", { name: "New folder" }).click();
  await page.getByRole("textbox", { name: "Path" }).fill("new/inner");
  await page.getByRole("button", { name: "Create", exact: true }).click();
  await file("new").waitFor();
  check((await exec("stat -c %F new/inner")) === "directory\n", "the folder exists");
  await menu("new", "New folder");
  await page.getByRole("textbox", { name: "Path" }).fill("new/inner");
  await page.getByRole("button", { name: "Create", exact: true }).click();
  await page.getByText("new/inner exists already.").waitFor();
  await page.getByRole("button", { name: "Cancel" }).click();

  // An open file with unsaved text is deleted with it, and another opens.
  await typeAt("keep.txt", "Control+Home", "z");
  await menu("keep.txt", "Delete");
  await page.getByText("It has unsaved changes, which are discarded as well.").waitFor();
  await page.getByRole("dialog", { name: "Delete" }).getByRole("button", { name: "Delete", exact: true }).click();
  await file("keep.txt").waitFor({ state: "detached" });
  await file("b.txt").click();
  await editor("b.txt").getByText("bee").waitFor();

  // A project that is deleted elsewhere leaves no text in the browser.
  const { id: gone } = await api("POST", "/api/projects", { name: "gone", template: "host" });
  await until("the project is running", async () => (await api("GET", "/api/projects/gone")).sandbox?.status === "RUNNING");
  await put("gone", "plan.txt", "a plan\n");
  await page.goto(`${url}/p/gone?view=files`);
  await file("plan.txt").click();
  await typeAt("plan.txt", "Control+Home", "secret ");
  const textsOf = (id) => page.evaluate((id) => Object.keys(localStorage).filter((key) => key.startsWith("fsa.unsaved.") && key.includes(id)).length, id);
  await until("the text is stored", async () => (await textsOf(gone)) > 0);
  await api("DELETE", "/api/projects/gone");
  await page.getByRole("heading", { name: "Project gone not found" }).waitFor();
  await until("the text is removed", async () => (await textsOf(gone)) === 0);
  await page.goto(`${url}/p/edit?view=files`);
  await file("b.txt").click();

  // Signing out leaves nothing in the browser, and asks before.
  await typeAt("b.txt", "Control+Home", "q");
  await page.getByRole("button", { name: /account menu/ }).click();
  await page.getByRole("menuitem", { name: "Sign out" }).click();
  const question = page.getByRole("dialog", { name: "Discard unsaved changes?" });
  await question.getByRole("button", { name: "Cancel" }).click();
  await editor("b.txt").getByText("qbee").waitFor();
  await page.getByRole("button", { name: /account menu/ }).click();
  await page.getByRole("menuitem", { name: "Sign out" }).click();
  await question.getByRole("button", { name: "Sign out" }).click();
  await page.getByRole("heading", { name: "Sign in" }).waitFor();
  check(await page.evaluate(() => !Object.keys(localStorage).some((key) => key.startsWith("fsa.unsaved."))), "no text is left in the browser");
});
