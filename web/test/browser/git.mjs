// A person commits from the Git tab what they changed, pushes, pulls what somebody else pushed, and meets a
// conflict. The other side is a bare repository in the sandbox itself.
import { api, check, shoot, signIn, story, until, url } from "./lib.mjs";

const exec = async (script) => {
  const done = await api("POST", "/api/projects/shop/exec", { command: ["sh", "-c", script] });
  check(done.exitCode === 0, `${script}: ${done.stderr}`);
  return done.stdout;
};
const somebodyElse = "git -c user.name=t -c user.email=t@example.org";

await story(async ({ person }) => {
  await api("POST", "/api/projects", { name: "shop", template: "host" });
  await until("it runs", async () => (await api("GET", "/api/projects/shop")).sandbox?.status === "RUNNING");
  const page = await person();
  await signIn(page);
  await page.goto(`${url}/p/shop?view=git`);
  await page.getByText("is no git repository yet").waitFor();
  await exec(
    `git init --quiet --bare --initial-branch=main ~/other.git && git init --quiet --initial-branch=main && git remote add origin ~/other.git &&
     echo one > README && git add . && ${somebodyElse} commit --quiet -m First && git push --quiet -u origin main &&
     git clone --quiet ~/other.git ~/theirs && echo two > README && echo new > 'a file'`,
  );
  await page.getByRole("button", { name: "Look again" }).click();

  const files = page.getByRole("list", { name: "Changed files" });
  await files.getByRole("button", { name: "README" }).click();
  const diff = page.getByLabel("Diff");
  await diff.locator('[data-line="added"]', { hasText: "+two" }).waitFor();
  await diff.locator('[data-line="removed"]', { hasText: "-one" }).waitFor();
  await shoot(page, "git");
  await page.getByRole("checkbox", { name: "Stage README" }).click();
  await page.getByLabel("Message").fill("Count to two");
  await page.getByRole("button", { name: "Commit 1 file" }).click();
  await page.getByRole("checkbox", { name: "Stage README" }).waitFor({ state: "detached" });
  await page.getByText("1 ahead, 0 behind").waitFor();
  check((await exec("git log -1 --format=%an%s")).trim() === "ownerCount to two", "the commit is the person's");
  await page.getByRole("button", { name: "Push" }).click();
  await page.getByText("0 ahead, 0 behind").waitFor();
  check((await exec("git -C ~/other.git show main:README")) === "two\n", "it was pushed");

  await exec(`cd ~/theirs && git pull --quiet && echo three > README && ${somebodyElse} commit --quiet -am Theirs && git push --quiet`);
  await exec(`echo drei > README && ${somebodyElse} commit --quiet -m Ours README`);
  await page.getByRole("button", { name: "Pull" }).click();
  await page.getByText("Both sides changed the same lines").waitFor();
  await page.getByText("conflict", { exact: true }).waitFor();
  await shoot(page, "git-conflict");
  await page.getByRole("button", { name: "Abort the merge" }).click();
  await page.getByText("Both sides changed the same lines").waitFor({ state: "detached" });
  check((await exec("cat README")) === "drei\n", "it is as it was before");

  await page.getByRole("button", { name: "Pull" }).click();
  await page.getByText("Both sides changed the same lines").waitFor();
  await exec("echo three, drei > README");
  await page.getByLabel("Message").fill("Both");
  await page.getByRole("button", { name: "Commit as decided" }).click();
  await page.getByText("2 ahead, 0 behind").waitFor();
  await page.getByRole("button", { name: "Push" }).click();
  await page.getByText("0 ahead, 0 behind").waitFor();
  check((await exec("git -C ~/other.git show main:README")) === "three, drei\n", "both are there");
});
