// Branches: create one in the page, change its files in its own terminal, reload it, switch by keyboard to main where
// nothing has changed, create another from a snapshot of main, follow a branch that someone else deletes, and delete the last.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { api, check, clear, hasFocus, idle, openTerminal, prompts, put, run, screen, screenshot, sees, signIn, status, type, until, url } from "./lib.mjs";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const running = async (project) => (await api("GET", `/api/projects/${project}`)).sandbox?.status === "RUNNING";
const branches = async () => (await api("GET", "/api/projects/shop/branches")).items.map(({ name }) => name);

await run(async ({ newPage }) => {
  await api("POST", "/api/projects", { name: "shop", template: "host" });
  await until("the project is running", () => running("shop"));
  await put("shop", "price.txt", "10\n");
  await api("POST", "/api/projects/shop/snapshots", { name: "before the sale" });
  const page = await newPage();
  await signIn(page);
  await page.goto(`${url}/p/shop?view=files`);
  const button = page.getByRole("button", { name: /^Branch / });
  const branch = (name) => page.getByRole("button", { name: `Branch ${name}: switch branches` });
  const option = (name) => page.getByRole("listbox", { name: "Branches" }).getByRole("option", { name });
  const file = (name) => page.getByRole("button", { name, exact: true });
  await branch("main").waitFor();
  await file("price.txt").waitFor();

  // A new branch, with a name that is corrected.
  await button.click();
  await hasFocus(page.getByRole("textbox", { name: "Find a branch" }));
  await option(/^main/).and(page.locator('[aria-current="true"]')).waitFor();
  await option("New branch…").click();
  const dialog = page.getByRole("dialog", { name: "New branch" });
  await dialog.getByLabel("Branch name").fill("Summer Sale");
  await dialog.getByText("The name must start with a lowercase letter.").waitFor();
  await dialog.getByRole("button", { name: "summer-sale" }).click();
  check((await dialog.getByRole("combobox", { name: "Source" }).inputValue()) === "main, as it is now", "a branch is a copy of the current one");
  await screenshot(page, "create");
  await dialog.getByRole("button", { name: "Create branch" }).click();
  await page.waitForURL("**/p/shop@summer-sale?view=files");
  await branch("summer-sale").waitFor();
  await status(page, "Running");
  await openTerminal(page);
  await prompts(page);
  await type(page, "cat price.txt; echo 7 > price.txt; touch sale.txt; echo do''ne");
  await sees(page, "10");
  await sees(page, "done");
  const { sandbox } = await api("GET", "/api/projects/shop@summer-sale");
  check(sandbox.terminalUrl.endsWith("/p/shop@summer-sale?view=terminal"), `the address of the terminal is that of the branch: ${sandbox.terminalUrl}`);
  // The page's address names the branch.
  await page.reload();
  await branch("summer-sale").waitFor();
  await file("sale.txt").waitFor();
  await file("price.txt").click();
  await page.getByRole("textbox", { name: "Content of price.txt" }).getByText("7").waitFor();

  // Main, with the keyboard only.
  await page.getByRole("tab", { name: "Settings" }).click();
  await page.getByRole("tab", { name: "Files" }).click();
  await idle(page);
  await page.keyboard.press("Control+Shift+K");
  await page.getByLabel("Search projects and commands").fill("switch br");
  await page.keyboard.press("Enter");
  await hasFocus(page.getByRole("textbox", { name: "Find a branch" }));
  await page.keyboard.type("mai");
  await option(/^summer-sale/).waitFor({ state: "detached" });
  await page.keyboard.press("Enter");
  await page.waitForURL("**/p/shop?view=files");
  await branch("main").waitFor();
  await file("price.txt").click();
  await page.getByRole("textbox", { name: "Content of price.txt" }).getByText("10").waitFor();
  check((await file("sale.txt").count()) === 0, "a file of a branch is not on main");
  await openTerminal(page);
  await prompts(page);
  await clear(page);
  await type(page, "ls sale.txt; cat price.txt; echo do''ne");
  await sees(page, "done");
  check((await screen(page)).includes("No such file"), "main has its own terminal");

  // From a snapshot, and reported by events: nothing here reloads the page.
  await api("DELETE", "/api/projects/shop/files?path=price.txt");
  await button.click();
  await option(/^summer-sale/).waitFor();
  await option("New branch…").click();
  await dialog.getByLabel("Branch name").fill("again");
  await dialog.getByRole("combobox", { name: "Source" }).click();
  await page.getByRole("option", { name: "before the sale" }).click();
  await dialog.getByRole("button", { name: "Create branch" }).click();
  await page.waitForURL("**/p/shop@again?view=files");
  await status(page, "Running");
  await file("price.txt").waitFor();
  await page.getByRole("button", { name: "Stop", exact: true }).click();
  await status(page, "Stopped");
  check(await running("shop"), "main runs while a branch is stopped");
  for (const [name, size] of [["phone", { width: 390, height: 844 }], ["desk", { width: 1440, height: 900 }], ["wide", { width: 2560, height: 1440 }]]) {
    await page.setViewportSize(size);
    for (const colorScheme of ["dark", "light"]) {
      await page.emulateMedia({ colorScheme });
      await button.click();
      await option(/^main/).waitFor();
      await idle(page);
      await screenshot(page, `menu-${name}-${colorScheme}`);
      const overflow = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      check(overflow <= 0, `the page is ${overflow} px wider than its window of ${size.width} px`);
      await page.evaluate(axe);
      const { violations } = await page.evaluate(() => window.axe.run(document, { iframes: false, resultTypes: ["violations"] }));
      const serious = violations.filter(({ impact }) => impact === "serious" || impact === "critical");
      check(serious.length === 0, `serious axe violations at ${name} ${colorScheme}: ${JSON.stringify(serious.map(({ id, nodes }) => [id, nodes.map(({ html }) => html)]))}`);
      await page.keyboard.press("Escape");
      await page.getByRole("listbox", { name: "Branches" }).waitFor({ state: "hidden" });
    }
  }
  await page.setViewportSize({ width: 1280, height: 800 });

  await api("DELETE", "/api/projects/shop/branches/again");
  await page.getByRole("heading", { name: "Branch again not found" }).waitFor();
  await page.getByRole("link", { name: "Go to main" }).click();
  await branch("main").waitFor();

  await button.click();
  await option(/^summer-sale/).click();
  await page.waitForURL("**/p/shop@summer-sale");
  await button.click();
  await option("Delete branch summer-sale…").click();
  const confirm = page.getByRole("dialog", { name: "Delete branch summer-sale?" });
  await confirm.waitFor();
  await screenshot(page, "delete");
  await confirm.getByRole("button", { name: "Delete branch" }).click();
  await page.waitForURL("**/p/shop");
  await branch("main").waitFor();
  check((await branches()).join() === "main", "the branch is deleted");
  await button.click();
  await option(/^main/).waitFor();
  await option(/^summer-sale/).waitFor({ state: "detached" });
  check((await option(/^Delete branch/).count()) === 0, "main cannot be deleted");
  await screenshot(page, "main-only");
});
