// A person lets Claude Code work by itself, follows its steps, and reads what it changed; another task is cancelled.
// The model is a script of the test's: it writes notes.txt, and then waits for a file that is called go.
import { api, check, shoot, signIn, story, until, url } from "./lib.mjs";

const exec = async (script) => {
  const done = await api("POST", "/api/projects/notes/exec", { command: ["sh", "-c", script] });
  check(done.exitCode === 0, `${script}: ${done.stderr}`);
};

await story(async ({ person }) => {
  await api("POST", "/api/projects", { name: "notes" });
  await until("it runs", async () => (await api("GET", "/api/projects/notes")).sandbox?.status === "RUNNING");
  await exec("git init --quiet");
  const page = await person();
  await signIn(page);
  await page.goto(`${url}/p/notes?view=tasks`);
  await page.getByText("No agent has worked here").waitFor();

  await page.getByLabel("What is to be done").fill("Write notes");
  await page.getByRole("button", { name: "Begin" }).click();
  const steps = page.getByRole("list", { name: "Steps" });
  await steps.locator('[data-step="toolCall"]', { hasText: "notes.txt" }).waitFor();
  await steps.locator('[data-step="toolCall"]', { hasText: "-e go" }).waitFor();
  await page.getByLabel("What is to be done").fill("Never do this");
  await page.getByRole("button", { name: "Begin" }).click();
  const second = page.getByRole("listitem").filter({ has: page.getByRole("button", { name: "Never do this" }) });
  await second.getByText("queued").waitFor();
  await second.getByRole("button", { name: "Cancel the task" }).click();
  await second.getByText("cancelled").waitFor();

  await page.getByRole("button", { name: "Write notes" }).click();
  await exec("touch go");
  await page.getByText("The notes are written.", { exact: true }).last().waitFor();
  const diff = page.getByLabel("Diff");
  await diff.locator('[data-line="added"]', { hasText: "+hello" }).waitFor();
  await page.getByText("Changed: go, notes.txt").waitFor();
  await shoot(page, "task");
});
