// What hands do in a workspace: copy and paste, drop, download, filter, move the border, share a port, touch a
// phone's keys, and go the whole way with the keyboard alone. And what `fsa` does elsewhere, seen at once.
import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { promisify } from "node:util";
import { api, check, openTerminal, screen, sees, shoot, signIn, signInLink, status, story, type, until, url } from "./lib.mjs";

/** The command line, as the owner, against this very server. */
const fsa = (...words) => promisify(execFile)(process.env.FSA_BIN, words, { timeout: 60_000 });
const view = (page, name) => page.getByRole("tab", { name, exact: true }).click();
const inside = async (...command) => (await api("POST", "/api/projects/hands/exec", { command })).stdout;

/** Drops a file of this name and text on what the selector finds. */
async function drop(page, selector, name, text) {
  const data = await page.evaluateHandle(([name, text]) => {
    const data = new DataTransfer();
    data.items.add(new File([text], name, { type: "text/plain" }));
    return data;
  }, [name, text]);
  await page.dispatchEvent(selector, "drop", { dataTransfer: data });
}

await story(async ({ person }) => {
  const page = await person({ permissions: ["clipboard-read", "clipboard-write"], acceptDownloads: true });
  await signIn(page);

  // A project that `fsa` makes is in the list at once, and its stages are seen while they happen.
  await page.evaluate(() => {
    window.seen = new Set();
    new MutationObserver(() => {
      for (const stage of document.querySelectorAll("[data-stage]")) window.seen.add(`${stage.dataset.stage} ${stage.dataset.state}`);
    }).observe(document.body, { subtree: true, childList: true, attributes: true });
  });
  await fsa("project", "create", "broken", "--image", "example.invalid/none:1", "--no-wait");
  await page.getByRole("link", { name: "broken" }).waitFor();
  await page.getByRole("link", { name: "broken" }).click();
  await page.getByRole("heading", { name: "It could not be made ready" }).waitFor();

  // A creation that failed says why and when it is tried again, and goes on when asked, on the same page.
  const failed = page.getByRole("alert").first();
  check(/example\.invalid/.test(await failed.innerText()), `the cause is not named: ${await failed.innerText()}`);
  const attempts = async () => (await api("GET", "/api/projects/broken/events?follow=false")).items.filter((event) => event.kind === "attemptFailed").length;
  const before = await attempts();
  await page.getByRole("button", { name: "Try again now" }).click();
  await until("another attempt", async () => (await attempts()) > before);
  await view(page, "Settings");
  await page.getByRole("combobox", { name: "Made from" }).click();
  await page.getByRole("option", { name: /^Host/ }).click();
  await page.getByRole("form", { name: "Settings" }).getByRole("button", { name: "Save" }).click();
  await status(page, "Running");
  const seen = await page.evaluate(() => [...window.seen]);
  check(seen.some((one) => one.endsWith(" active")) && seen.some((one) => one.endsWith(" failed")), `stages were seen as ${seen}`);
  await openTerminal(page);
  await fsa("project", "delete", "broken", "--yes");
  await page.getByRole("heading", { name: "There is no project broken" }).waitFor();

  await fsa("project", "create", "hands", "--no-wait", "--template", "host", "--start-command", "while :; do echo tick; echo trouble >&2; sleep 0.3; done");
  await page.goto(`${url}/p/hands?view=logs`);
  await status(page, "Running");
  await openTerminal(page);

  // Logs: by source, by words, and following or not.
  const log = page.getByRole("log");
  await log.locator(".stdout").nth(1).waitFor();
  await log.locator(".stderr").nth(1).waitFor();
  await page.getByText("stderr", { exact: true }).click();
  await until("standard output alone", async () => (await log.locator(".stderr").count()) === 0 && (await log.locator(".stdout").count()) > 1);
  await page.getByText("stderr", { exact: true }).click();
  await page.getByRole("textbox", { name: "Filter" }).fill("troub");
  await until("what has these words", async () => (await log.locator(".stdout").count()) === 0 && (await log.locator(".stderr").count()) > 1);
  await page.getByRole("textbox", { name: "Filter" }).fill("");

  // What is selected is copied, and what is copied is pasted.
  await type(page, "clear; echo copy-$((40+2))-me");
  await sees(page, "copy-42-me");
  const word = await page.evaluate(() => {
    const box = document.querySelector('.term[data-session="main"] .xterm-screen').getBoundingClientRect();
    return { x: box.left + 20, y: box.top };
  });
  const row = (await screen(page)).split("\n").findIndex((line) => line.startsWith("copy-42-me"));
  const rows = (await screen(page)).split("\n").length;
  const height = await page.evaluate(() => document.querySelector('.term[data-session="main"] .xterm-screen').getBoundingClientRect().height);
  await page.mouse.dblclick(word.x, word.y + ((row + 0.5) * height) / rows);
  await page.keyboard.press("Control+Shift+C");
  const copied = await until("the clipboard", () => page.evaluate(() => navigator.clipboard.readText()));
  check("copy-42-me".includes(copied) && copied.length > 1, `copied: ${copied}`);
  await page.evaluate(() => navigator.clipboard.writeText("echo pasted-$((1+1))"));
  await page.locator('.term[data-session="main"] textarea').focus();
  await page.keyboard.press("Control+Shift+V");
  await sees(page, "echo pasted-");
  await page.keyboard.press("Enter");
  await sees(page, "pasted-2");

  // A file that is dropped on the terminal is in the folder, and its name is typed; one dropped on the files too.
  await drop(page, '.term[data-session="main"]', "drop me.txt", "dropped");
  await sees(page, "'drop me.txt'");
  check((await inside("cat", "drop me.txt")) === "dropped", "the dropped file has its content");
  await page.keyboard.press("Control+c");
  await view(page, "Files");
  await drop(page, ".split:has(> .tree)", "second.txt", "second");
  await page.getByRole("button", { name: "second.txt", exact: true }).waitFor();

  // A file and the whole folder are downloaded.
  const download = async (act) => {
    const [file] = await Promise.all([page.waitForEvent("download"), act()]);
    return { name: file.suggestedFilename(), content: await readFile(await file.path()) };
  };
  const one = await download(async () => {
    await page.getByRole("button", { name: "More for second.txt" }).click();
    await page.getByRole("menuitem", { name: "Download", exact: true }).click();
  });
  check(one.name === "second.txt" && one.content.toString() === "second", `downloaded ${one.name}: ${one.content}`);
  const all = await download(() => page.getByRole("button", { name: "Download all" }).click());
  check(all.name === "hands.tar" && all.content.includes("drop me.txt"), `downloaded ${all.name}`);

  // The border between the panes is moved, with keys and with the mouse, and stays there.
  const border = page.getByRole("separator", { name: "Width of the terminal" });
  await border.focus();
  for (let step = 0; step < 5; step++) await page.keyboard.press("ArrowLeft");
  check((await border.getAttribute("aria-valuenow")) === "40", "the border is moved by keys");
  const box = await border.boundingBox();
  await page.mouse.move(box.x + box.width / 2, box.y + 100);
  await page.mouse.down();
  await page.mouse.move(box.x - 100, box.y + 100, { steps: 4 });
  await page.mouse.up();
  const share = Number(await border.getAttribute("aria-valuenow"));
  check(share < 40, `the border is moved by the mouse: ${share}`);
  await page.reload();
  await border.waitFor();
  check(Number(await border.getAttribute("aria-valuenow")) === share, "the border is where it was");

  // A port is opened to whoever has a link, to everybody, and to members alone again.
  await openTerminal(page);
  await type(page, "clear; echo '<h1>Come in</h1>' > index.html; python3 -m http.server 3000");
  await view(page, "Preview");
  await page.frameLocator("iframe.frame").getByRole("heading", { name: "Come in" }).waitFor();
  const open = async (who) => {
    await page.getByRole("button", { name: "Who may open it" }).click();
    await page.getByRole("menuitem", { name: who, exact: true }).click();
  };
  const { protocol, host } = new URL(url);
  const address = `${protocol}//hands--3000.${host}/`;
  const stranger = async (link) => {
    const guest = await person();
    await guest.goto(link);
    const is = await guest.getByRole("heading").first().innerText();
    await guest.context().close();
    return is;
  };
  check((await stranger(address)) === "Sign in", "a private port asks who it is");
  await open("Whoever has the link");
  const link = await page.getByRole("textbox", { name: "Link" }).inputValue();
  await page.keyboard.press("Escape");
  check((await stranger(link)) === "Come in", `the link ${link} opens the port`);
  check((await stranger(address)) !== "Come in", "without the link it stays shut");
  await open("Everybody");
  await until("a public port", async () => (await api("GET", "/api/projects/hands/ports")).items.some((port) => port.port === 3000 && port.sharing === "public"));
  check((await stranger(address)) === "Come in", "everybody sees a public port");
  await open("Only members");
  await until("a private port", async () => (await api("GET", "/api/projects/hands/ports")).items.some((port) => port.port === 3000 && port.sharing === "private"));
  check((await stranger(address)) === "Sign in", "a port that is private again asks who it is");

  // A phone has the keys that its keyboard lacks.
  const phone = await person({ viewport: { width: 390, height: 844 }, hasTouch: true });
  await signIn(phone, await signInLink());
  await phone.goto(`${url}/p/hands?view=terminal`);
  await openTerminal(phone);
  await phone.getByRole("button", { name: "^C", exact: true }).tap();
  await type(phone, "clear");
  await type(phone, "echo p-$((1+1))");
  await sees(phone, "p-2");
  await phone.getByRole("button", { name: "↑", exact: true }).tap();
  await until("the line before", async () => (await screen(phone)).split("echo p-$((1+1))").length === 3);
  await phone.getByRole("button", { name: "^C", exact: true }).tap();
  await shoot(phone, "keys");
  await phone.context().close();

  // What `fsa` does is seen without a reload.
  await view(page, "Environment");
  await fsa("env", "set", "hands", "FROM_FSA=1");
  await page.getByText("FROM_FSA").waitFor();
  await status(page, "Running");
  await fsa("stop", "hands");
  await status(page, "Stopped");
  await page.context().close();

  // The whole way with the keyboard alone: in, made, worked in, stopped, deleted, out.
  const keys = await person();
  const press = (...all) => all.reduce((before, key) => before.then(() => keys.keyboard.press(key)), Promise.resolve());
  /** Tabs on until this is in focus. */
  const tabTo = async (what) => {
    for (let step = 0; step < 60; step++) {
      if (await what.evaluate((element) => element === document.activeElement || element.contains(document.activeElement)).catch(() => false)) return;
      await keys.keyboard.press("Tab");
    }
    throw new Error(`the keyboard does not come to ${what}`);
  };
  await keys.goto(await signInLink());
  await tabTo(keys.getByRole("button", { name: "Sign in", exact: true }));
  await press("Enter");
  await keys.getByRole("heading", { name: "Projects" }).waitFor();
  await press("c");
  await keys.getByRole("dialog", { name: "New project" }).waitFor();
  await tabTo(keys.getByLabel("Name", { exact: true }));
  await keys.keyboard.type("typed");
  await tabTo(keys.getByRole("combobox", { name: "Made from" }));
  await press("ArrowDown", "ArrowDown", "Enter");
  await tabTo(keys.getByRole("button", { name: "Create", exact: true }));
  await press("Enter");
  await keys.waitForURL("**/p/typed");
  await status(keys, "Running");
  await openTerminal(keys);
  await until("keys go to the terminal", () => keys.evaluate(() => document.activeElement?.closest('.term[data-session="main"]') !== null));
  await keys.keyboard.type("echo key-$((1+1))");
  await press("Enter");
  await sees(keys, "key-2");
  const palette = async (words) => {
    await press("Control+k");
    await keys.getByRole("textbox", { name: "Project or command" }).waitFor();
    await keys.keyboard.type(words);
    await press("Enter");
  };
  await palette("stop the");
  await status(keys, "Stopped");
  await palette("settings");
  await keys.getByRole("button", { name: "Delete this project" }).waitFor();
  await tabTo(keys.getByRole("button", { name: "Delete this project" }));
  await press("Enter");
  await keys.getByLabel(/^Type typed/).waitFor();
  await tabTo(keys.getByLabel(/^Type typed/));
  await keys.keyboard.type("typed");
  await press("Enter");
  await keys.getByRole("heading", { name: "Projects" }).waitFor();
  await keys.getByRole("link", { name: "typed" }).waitFor({ state: "detached" });
  await tabTo(keys.getByRole("button", { name: /account menu/ }));
  await press("Enter");
  await keys.getByRole("menuitem", { name: "Sign out" }).waitFor();
  await until("the last of the menu", async () => {
    await press("ArrowDown");
    return keys.evaluate(() => document.activeElement?.textContent === "Sign out");
  });
  await press("Enter");
  await keys.getByRole("heading", { name: "Sign in" }).waitFor();
});
