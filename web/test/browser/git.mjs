// Git view: diff, stage, commit, push, pull, and a merge conflict. The remote is a bare repository in the same
// sandbox.
import { api, check, run, screenshot, signIn, until, url } from "./lib.mjs";

const exec = async (script) => {
  const done = await api("POST", "/api/projects/shop/exec", { command: ["sh", "-c", script] });
  check(done.exitCode === 0, `${script}: ${done.stderr}`);
  return done.stdout;
};
const otherUser = "git -c user.name=t -c user.email=t@example.org";

await run(async ({ newPage }) => {
  await api("POST", "/api/projects", { name: "shop", template: "host" });
  await until("the project is running", async () => (await api("GET", "/api/projects/shop")).sandbox?.status === "RUNNING");
  const page = await newPage();
  await signIn(page);
  const failed = [];
  page.on("response", (response) => response.status() >= 400 && failed.push(`${response.status()} ${response.url()}`));
  await page.goto(`${url}/p/shop?view=git`);
  await page.getByText("Not a git repository").waitFor();
  check(failed.length === 0, `a folder without a repository is no error: ${failed}`);
  await exec(
    `git init --quiet --bare --initial-branch=main ~/other.git && git init --quiet --initial-branch=main && git remote add origin ~/other.git &&
     echo one > README && git add . && ${otherUser} commit --quiet -m First && git push --quiet -u origin main &&
     git clone --quiet ~/other.git ~/theirs && echo two > README && echo new > 'a file'`,
  );
  await page.getByRole("button", { name: "Refresh" }).click();

  const files = page.getByRole("list", { name: "Changed files" });
  await files.getByRole("button", { name: "README" }).click();
  const diff = page.getByLabel("Diff");
  await diff.locator('[data-line="added"]', { hasText: "+two" }).waitFor();
  await diff.locator('[data-line="removed"]', { hasText: "-one" }).waitFor();
  await screenshot(page, "git");
  await page.getByRole("checkbox", { name: "Stage README" }).click();
  await page.getByLabel("Commit message").fill("Count to two");
  await page.getByRole("button", { name: "Commit 1 file" }).click();
  await page.getByRole("checkbox", { name: "Stage README" }).waitFor({ state: "detached" });
  await page.getByText("1 ahead, 0 behind").waitFor();
  check((await exec("git log -1 --format=%an%s")).trim() === "ownerCount to two", "the commit has the user as its author");
  await page.getByRole("button", { name: "Push" }).click();
  await page.getByText("0 ahead, 0 behind").waitFor();
  check((await exec("git -C ~/other.git show main:README")) === "two\n", "it was pushed");

  await exec(`cd ~/theirs && git pull --quiet && echo three > README && ${otherUser} commit --quiet -am Theirs && git push --quiet`);
  await exec(`echo drei > README && ${otherUser} commit --quiet -m Ours README`);
  await page.getByRole("button", { name: "Pull" }).click();
  await page.getByText("Merge conflicts").waitFor();
  await page.getByText("conflict", { exact: true }).waitFor();
  await screenshot(page, "git-conflict");
  await page.getByRole("button", { name: "Abort merge" }).click();
  await page.getByText("Merge conflicts").waitFor({ state: "detached" });
  check((await exec("cat README")) === "drei\n", "the file has its content from before the pull");

  await page.getByRole("button", { name: "Pull" }).click();
  await page.getByText("Merge conflicts").waitFor();
  await exec("echo three, drei > README");
  await page.getByLabel("Commit message").fill("Both");
  await page.getByRole("button", { name: "Commit merge" }).click();
  await page.getByText("2 ahead, 0 behind").waitFor();
  await page.getByRole("button", { name: "Push" }).click();
  await page.getByText("0 ahead, 0 behind").waitFor();
  check((await exec("git -C ~/other.git show main:README")) === "three, drei\n", "the merge was pushed");
});
