// Agent tasks: run a prompt with Claude Code, watch its steps, view the changed files, and cancel another task. Also removes an image.
// The model is scripted by the Rust test: it writes notes.txt, and then waits for a file named go.
import { api, check, run, screenshot, signIn, until, url } from "./lib.mjs";

const exec = async (script) => {
  const done = await api("POST", "/api/projects/notes/exec", { command: ["sh", "-c", script] });
  check(done.exitCode === 0, `${script}: ${done.stderr}`);
};

await run(async ({ newPage }) => {
  await api("POST", "/api/projects", { name: "notes" });
  await until("the project is running", async () => (await api("GET", "/api/projects/notes")).sandbox?.status === "RUNNING");
  await exec("git init --quiet");
  const page = await newPage();
  await signIn(page);
  await page.goto(`${url}/p/notes?view=tasks`);
  await page.getByText("No tasks yet").waitFor();

  await page.getByLabel("Prompt").fill("Write notes");
  await page.getByRole("button", { name: "Run", exact: true }).click();
  const steps = page.getByRole("list", { name: "Steps" });
  await steps.locator('[data-step="toolCall"]', { hasText: "notes.txt" }).waitFor();
  await steps.locator('[data-step="toolCall"]', { hasText: "-e go" }).waitFor();
  await page.getByLabel("Prompt").fill("Never do this");
  await page.getByRole("button", { name: "Run", exact: true }).click();
  const second = page.getByRole("listitem").filter({ has: page.getByRole("button", { name: "Never do this" }) });
  await second.getByText("queued").waitFor();
  await second.getByRole("button", { name: "Cancel task" }).click();
  await second.getByText("cancelled").waitFor();

  await page.getByRole("button", { name: "Write notes" }).click();
  await exec("touch go");
  await page.getByText("The notes are written.", { exact: true }).last().waitFor();
  const diff = page.getByLabel("Diff");
  await diff.locator('[data-line="added"]', { hasText: "+hello" }).waitFor();
  await page.getByText("Changed files: go, notes.txt").waitFor();
  await screenshot(page, "task");

  // The project's image is removed once no project uses it.
  await page.goto(`${url}/administration`);
  await page.getByRole("tab", { name: "Images" }).click();
  const removeImage = async () => {
    await page.getByRole("button", { name: "Remove web" }).click();
    await page.getByRole("dialog", { name: "Remove web?" }).getByRole("button", { name: "Remove", exact: true }).click();
  };
  await removeImage();
  await page.getByText(/^The image web is used by \S+\/notes\./).waitFor();
  await screenshot(page, "images");
  await api("DELETE", "/api/projects/notes");
  await removeImage();
  await page.getByText("No images are stored.").waitFor();
});
