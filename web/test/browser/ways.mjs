// The smaller ways of a workspace and an account: finding, splitting and flooding a terminal, moving
// files, what the preview says where nothing listens, and questions before what cannot be undone.
import { api, check, openTerminal, screen, sees, signIn, story, type, until, url } from "./lib.mjs";

await story(async ({ person }) => {
  const page = await person();
  await signIn(page);
  await api("POST", "/api/projects", { name: "tools", template: "host" });
  await until("it runs", async () => (await api("GET", "/api/projects/tools")).sandbox?.status === "RUNNING");
  await page.goto(`${url}/p/tools?view=files`);
  await openTerminal(page);

  // A flood ends with its last lines, and what the terminal keeps above them is without a gap.
  await type(page, "clear; seq 1 3000000; echo fin''ished");
  await sees(page, "finished");
  check((await screen(page)).includes("2999999\n3000000\nfinished"), "the end of the flood is on the screen");
  await page.locator('.term[data-session="main"] textarea').focus();
  await page.keyboard.press("Shift+PageUp");
  await until("older lines", async () => !(await screen(page)).includes("finished"));
  const numbers = (await screen(page)).trim().split("\n").map(Number);
  check(numbers.length > 5 && numbers.every((number, index) => index === 0 || number === numbers[index - 1] + 1), `older lines follow each other: ${numbers}`);

  // What was said is found again.
  await type(page, "clear; echo needle-$((40+2)) in a stack");
  await sees(page, "needle-42");
  await page.keyboard.press("Control+Shift+F");
  await page.getByRole("textbox", { name: "Find in the terminal" }).fill("needle-42");
  await page.keyboard.press("Enter");
  await page.locator('.term[data-session="main"] .xterm-selection div').first().waitFor({ state: "attached" });
  await page.keyboard.press("Escape");
  await page.getByRole("textbox", { name: "Find in the terminal" }).waitFor({ state: "detached" });

  // Two terminals side by side, and one again.
  await page.getByRole("button", { name: "Split" }).click();
  await until("two terminals", async () => (await page.locator('.term[data-tty="open"]:visible').count()) === 2);
  await page.getByRole("button", { name: "Split" }).click();
  await until("one terminal", async () => (await page.locator(".term:visible").count()) === 1);

  // Files are uploaded, also into a folder that was chosen, renamed and deleted.
  const file = (name, text) => ({ name, mimeType: "text/plain", buffer: Buffer.from(text) });
  await api("POST", "/api/projects/tools/exec", { command: ["mkdir", "-p", "notes"] });
  await page.getByRole("button", { name: "Read the folders again" }).click();
  const [chooser] = await Promise.all([page.waitForEvent("filechooser"), page.getByRole("button", { name: "Upload", exact: true }).click()]);
  await chooser.setFiles([file("top.txt", "top"), file("other.txt", "other")]);
  await page.getByRole("button", { name: "top.txt", exact: true }).waitFor();
  await page.getByLabel("Upload into notes").setInputFiles([file("deep.txt", "deep")]);
  await until("the file in the folder", async () => (await api("POST", "/api/projects/tools/exec", { command: ["cat", "notes/deep.txt"] })).stdout === "deep");
  const menu = async (name, item) => {
    await page.getByRole("button", { name: `More for ${name}` }).click();
    await page.getByRole("menuitem", { name: item, exact: true }).click();
  };
  await menu("top.txt", "Rename or move");
  await page.getByLabel("New path").fill("notes/moved.txt");
  await page.getByRole("button", { name: "Rename", exact: true }).click();
  await page.getByRole("button", { name: "notes", exact: true }).click();
  await page.getByRole("button", { name: "moved.txt", exact: true }).click();

  // Changes that are not saved are not left unasked.
  const editor = page.getByRole("textbox", { name: "Content of notes/moved.txt" });
  await editor.click();
  await page.keyboard.type("changed ");
  await page.getByRole("button", { name: "other.txt", exact: true }).click();
  const question = page.getByRole("dialog", { name: "Leave the changes?" });
  await question.getByRole("button", { name: "Cancel" }).click();
  await editor.getByText("changed").waitFor();
  await page.getByRole("button", { name: "other.txt", exact: true }).click();
  await question.getByRole("button", { name: "Leave them" }).click();
  await page.getByRole("textbox", { name: "Content of other.txt" }).waitFor();
  await menu("other.txt", "Delete");
  await page.getByRole("dialog", { name: "Delete" }).getByRole("button", { name: "Delete", exact: true }).click();
  await page.getByRole("button", { name: "other.txt", exact: true }).waitFor({ state: "detached" });

  // Where nothing listens, the frame of the preview says so instead of staying empty.
  const { protocol, host } = new URL(url);
  await page.evaluate((address) => {
    const frame = document.createElement("iframe");
    frame.src = address;
    frame.id = "nothing";
    document.body.append(frame);
  }, `${protocol}//tools--3999.${host}/`);
  await page.frameLocator("#nothing").getByRole("heading").waitFor({ state: "attached" });

  // A token is shown once, and revoked after a question.
  await page.goto(`${url}/account`);
  await page.getByLabel("New token for").fill("laptop");
  await page.getByRole("button", { name: "Make", exact: true }).click();
  const secret = await page.locator("code").filter({ hasText: "fsa_" }).innerText();
  check((await api("GET", "/api/me", undefined, secret)).role === "owner", "the token is its owner's");
  const revoke = page.getByRole("button", { name: "Revoke laptop" });
  await revoke.click();
  const sure = page.getByRole("dialog", { name: "Revoke the token laptop?" });
  await sure.getByRole("button", { name: "Cancel" }).click();
  await api("GET", "/api/me", undefined, secret);
  await revoke.click();
  await sure.getByRole("button", { name: "Revoke" }).click();
  await revoke.waitFor({ state: "detached" });
  const answer = await fetch(`${url}/api/me`, { headers: { authorization: `Bearer ${secret}` } });
  check(answer.status === 401, `a revoked token was answered with ${answer.status}`);
});
