// Terminal and files: a flood of output, search and split in the terminal, keys and the clipboard of programs, upload,
// rename and delete of files, the error page of a preview, and confirmations before actions that cannot be undone.
import { api, check, clear, escape, openTerminal, prompts, put, run, screen, screenshot, sees, signIn, signInLink, type, until, url } from "./lib.mjs";

/**
 * Draws its first line only once and when the size changes, and then more than the scrollback keeps. A terminal in
 * canonical mode would keep a key that comes between two reads.
 */
const fullScreen = `
stty -icanon -echo
draw() { printf '\\e[H\\e[2J\\e[1;1HTOP LINE'; }
trap draw WINCH
printf '\\e[?1049h'
draw
for number in {1..4000}; do printf '\\e[5;1H%0100d' $number; done
printf '\\e[6;1HREADY'
until read -rsn1 -t 0.1; do :; done
printf '\\e[?1049l'
stty sane
`;

await run(async ({ newPage }) => {
  const page = await newPage();
  await signIn(page);
  await api("POST", "/api/projects", { name: "tools", template: "host" });
  await until("the project is running", async () => (await api("GET", "/api/projects/tools")).sandbox?.status === "RUNNING");
  await page.goto(`${url}/p/tools?view=files`);
  await openTerminal(page);

  // A flood of output ends with its last lines, and the scrollback above them has no gap.
  await type(page, "clear; seq 1 3000000; echo fin''ished");
  await sees(page, "finished");
  check((await screen(page)).includes("2999999\n3000000\nfinished"), "the end of the flood is on the screen");
  await page.locator('.term[data-session="main"] textarea').focus();
  await page.keyboard.press("Shift+PageUp");
  await until("older lines", async () => !(await screen(page)).includes("finished"));
  const numbers = (await screen(page)).trim().split("\n").map(Number);
  check(numbers.length > 5 && numbers.every((number, index) => index === 0 || number === numbers[index - 1] + 1), `a gap in the scrollback: ${numbers}`);

  // Search in the scrollback.
  await type(page, "clear; echo needle-$((40+2)) in a stack");
  await sees(page, "needle-42");
  await page.keyboard.press("Control+Shift+F");
  await page.getByRole("textbox", { name: "Find in terminal" }).fill("needle-42");
  await page.keyboard.press("Enter");
  await page.locator('.term[data-session="main"] .xterm-selection div').first().waitFor({ state: "attached" });
  await page.keyboard.press("Escape");
  await page.getByRole("textbox", { name: "Find in terminal" }).waitFor({ state: "detached" });

  // Split, and close the split.
  await page.getByRole("button", { name: "Split terminal" }).click();
  await until("two terminals", async () => (await page.locator('.term[data-tty="open"]:visible').count()) === 2);
  await page.getByRole("button", { name: "Split terminal" }).click();
  await until("one terminal", async () => (await page.locator(".term:visible").count()) === 1);

  // Keys belong to the program: Ctrl+K and Ctrl+W delete in the shell, and Shift+Enter is not Enter.
  const input = page.locator('.term[data-session="main"] textarea');
  await clear(page);
  await input.focus();
  await page.keyboard.type("echo deleted");
  await page.keyboard.press("Control+a");
  await page.keyboard.press("Control+k");
  await page.keyboard.type("echo kept dropped");
  await page.keyboard.press("Control+w");
  await type(page, "$((40+2))");
  await sees(page, "\nkept 42");
  check((await page.getByRole("dialog").count()) === 0, "Ctrl+K opens no dialog");
  await page.keyboard.press("Control+Shift+K");
  await page.getByRole("listbox", { name: "Commands" }).waitFor();
  await escape(page);
  await page.getByRole("listbox", { name: "Commands" }).waitFor({ state: "detached" });
  await type(page, "clear; stty raw -echo; echo rea''dy; head -c 2 | od -An -tx1; stty sane");
  await sees(page, "ready");
  await page.keyboard.press("Shift+Enter");
  await sees(page, "1b 0d");

  // A program copies to the clipboard after the user has agreed once; a reload does not copy again.
  await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
  const clipboard = () => page.evaluate(() => navigator.clipboard.readText());
  const copy = (text) => type(page, `printf '\\e]52;c;%s\\a' "$(printf ${text} | base64)"; clear; echo do''ne`);
  await copy("first");
  await page.getByText("A program in this terminal wants to copy text to your clipboard.").waitFor();
  await screenshot(page, "copy");
  await page.getByRole("button", { name: "Always allow" }).click();
  await until("the first text", async () => (await clipboard()) === "first");
  await copy("second");
  await until("the second text", async () => (await clipboard()) === "second");
  await page.evaluate(() => navigator.clipboard.writeText("mine"));
  await page.reload();
  await openTerminal(page);
  await sees(page, "done");
  check((await clipboard()) === "mine", "the scrollback copies nothing");

  // After a reload a full-screen program is shown whole.
  await put("tools", "full.sh", fullScreen);
  await type(page, "bash full.sh");
  await sees(page, "READY");
  await page.reload();
  await openTerminal(page);
  await sees(page, "TOP LINE");
  await input.focus();
  await page.keyboard.type("q");

  // On a Mac the Option key types characters.
  const mac = await newPage();
  await mac.addInitScript(() => Object.defineProperty(navigator, "platform", { get: () => "MacIntel" }));
  await signIn(mac, await signInLink());
  await mac.goto(`${url}/p/tools`);
  await openTerminal(mac);
  await prompts(mac);
  await type(mac, "clear; echo rea''dy; cat -v");
  await sees(mac, "ready");
  const keyboard = await mac.context().newCDPSession(mac);
  const option = async (key, code) => {
    const alt = 1;
    await keyboard.send("Input.dispatchKeyEvent", { type: "keyDown", modifiers: alt, key, code, text: key, unmodifiedText: key, windowsVirtualKeyCode: code.charCodeAt(3) });
    await keyboard.send("Input.dispatchKeyEvent", { type: "keyUp", modifiers: alt, key, code, windowsVirtualKeyCode: code.charCodeAt(3) });
  };
  await mac.locator('.term[data-session="main"] textarea').focus();
  await option("@", "KeyL");
  await option("{", "Key8");
  await sees(mac, "@{");
  await mac.getByRole("button", { name: "Terminal settings" }).click();
  await mac.getByRole("menuitemcheckbox", { name: "Option key is Meta (Esc)" }).click();
  await mac.locator('.term[data-session="main"] textarea').focus();
  await option("@", "KeyL");
  await sees(mac, "@{^[l");
  await mac.keyboard.press("Control+c");
  await mac.context().close();

  // Upload of files to the project folder and to another folder, and rename.
  const file = (name, text) => ({ name, mimeType: "text/plain", buffer: Buffer.from(text) });
  await api("POST", "/api/projects/tools/exec", { command: ["mkdir", "-p", "notes"] });
  await page.getByRole("button", { name: "Refresh" }).click();
  const [chooser] = await Promise.all([page.waitForEvent("filechooser"), page.getByRole("button", { name: "Upload", exact: true }).click()]);
  await chooser.setFiles([file("top.txt", "top"), file("other.txt", "other")]);
  await page.getByRole("button", { name: "top.txt", exact: true }).waitFor();
  await page.getByLabel("Upload to notes").setInputFiles([file("deep.txt", "deep")]);
  await until("the file in the folder", async () => (await api("POST", "/api/projects/tools/exec", { command: ["cat", "notes/deep.txt"] })).stdout === "deep");
  const menu = async (name, item) => {
    await page.getByRole("button", { name: `Actions for ${name}` }).click();
    await page.getByRole("menuitem", { name: item, exact: true }).click();
  };
  await menu("top.txt", "Rename or move");
  await page.getByLabel("New path").fill("notes/moved.txt");
  await page.getByRole("button", { name: "Rename", exact: true }).click();
  await page.getByRole("button", { name: "notes", exact: true }).click();
  await page.getByRole("button", { name: "moved.txt", exact: true }).click();

  // Unsaved changes are kept while another file is shown.
  const editor = page.getByRole("textbox", { name: "Content of notes/moved.txt" });
  await editor.click();
  await page.keyboard.type("changed ");
  await page.getByRole("button", { name: "other.txt", exact: true }).click();
  await page.getByRole("textbox", { name: "Content of other.txt" }).waitFor();
  await page.getByRole("button", { name: "moved.txt", exact: true }).click();
  await editor.getByText("changed").waitFor();
  await page.getByRole("button", { name: "other.txt", exact: true }).click();
  await menu("other.txt", "Delete");
  await page.getByRole("dialog", { name: "Delete" }).getByRole("button", { name: "Delete", exact: true }).click();
  await page.getByRole("button", { name: "other.txt", exact: true }).waitFor({ state: "detached" });

  // The preview of a port without a server shows an error page in the iframe.
  const { protocol, host } = new URL(url);
  await page.evaluate((address) => {
    const frame = document.createElement("iframe");
    frame.src = address;
    frame.id = "nothing";
    document.body.append(frame);
  }, `${protocol}//tools--3999.${host}/`);
  await page.frameLocator("#nothing").getByRole("heading").waitFor({ state: "attached" });

  // A token is shown once, and revoked after a confirmation.
  await page.goto(`${url}/account`);
  await page.getByLabel("Token name").fill("laptop");
  await page.getByRole("button", { name: "Create token", exact: true }).click();
  const secret = await page.locator("code").filter({ hasText: "fsa_" }).innerText();
  check((await api("GET", "/api/me", undefined, secret)).role === "owner", "the token has its owner's permissions");
  const revoke = page.getByRole("button", { name: "Revoke laptop" });
  await revoke.click();
  const dialog = page.getByRole("dialog", { name: "Revoke token laptop?" });
  await dialog.getByRole("button", { name: "Cancel" }).click();
  await api("GET", "/api/me", undefined, secret);
  await revoke.click();
  await dialog.getByRole("button", { name: "Revoke" }).click();
  await revoke.waitFor({ state: "detached" });
  const response = await fetch(`${url}/api/me`, { headers: { authorization: `Bearer ${secret}` } });
  check(response.status === 401, `the status with a revoked token is ${response.status}`);
});
