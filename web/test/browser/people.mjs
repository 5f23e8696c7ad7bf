// An installation's first days: its owner arrives, invites somebody, limits, disables and shares; each sees at
// once what the other did. The world has GitHub set up, and a second region that does not answer.
import { check, createProject, openTerminal, screen, sees, shoot, signIn, signInLink, status, story, type, until, url } from "./lib.mjs";

const view = (page, name) => page.getByRole("tab", { name, exact: true }).click();
const menu = async (page, name, item) => {
  await page.getByRole("button", { name, exact: true }).click();
  await page.getByRole("menuitem", { name: item, exact: true }).click();
};
const choose = async (page, label, option) => {
  await page.getByRole("combobox", { name: label, exact: true }).click();
  await page.getByRole("option", { name: option, exact: true }).click();
};

await story(async ({ person }) => {
  const owner = await person();
  await signIn(owner);

  // The first person of an installation is shown what it lacks, and sets a password and a key.
  await owner.getByRole("heading", { name: "Welcome to FullStack Agent" }).waitFor();
  await owner.locator('[data-check="region far"][data-state="bad"]').waitFor();
  await owner.getByRole("textbox", { name: "New password" }).fill("short");
  await owner.getByRole("button", { name: "Set", exact: true }).click();
  await owner.getByRole("alert").first().waitFor();
  await owner.getByRole("textbox", { name: "New password" }).fill("a password of the owner");
  await owner.getByRole("button", { name: "Set", exact: true }).click();
  await owner.getByText("You can sign in with it.").waitFor();
  await owner.getByRole("textbox", { name: "Key", exact: true }).fill("sk-not-a-key");
  await owner.getByRole("button", { name: "Keep it" }).click();
  await owner.getByText("Set for all of your projects: ANTHROPIC_API_KEY.").waitFor();
  check(!(await owner.content()).includes("sk-not-a-key"), "the key is not on the page");

  // The sign-in page leads to GitHub, with what protects the way back.
  const outside = await person();
  await outside.goto(`${url}/sign-in`);
  await outside.route("https://github.com/**", (route) => route.fulfill({ body: "GitHub stands in", contentType: "text/plain" }));
  await outside.getByRole("button", { name: "Sign in with GitHub" }).click();
  await outside.getByText("GitHub stands in").waitFor();
  const asked = new URL(outside.url()).searchParams;
  check(asked.get("client_id") === "an-app" && asked.get("state") && asked.get("code_challenge_method") === "S256", `GitHub was asked for ${outside.url()}`);
  await outside.context().close();

  // Somebody is invited, and their limits are set while they are here.
  await owner.goto(`${url}/administration`);
  await owner.getByRole("button", { name: "Invite" }).click();
  const invitation = (await owner.getByLabel("Link", { exact: true }).inputValue()).replace(/^https?:\/\/[^/]+/, url);
  await owner.keyboard.press("Escape");
  const guest = await person();
  await guest.goto(invitation);
  await guest.getByRole("button", { name: "Sign in", exact: true }).click();
  await guest.getByLabel("Login").fill("grace");
  await guest.getByRole("textbox", { name: "Password" }).fill("a password of the guest");
  await guest.getByRole("button", { name: "Begin" }).click();
  await guest.getByRole("heading", { name: "Make your first project" }).waitFor();
  await owner.reload();
  await menu(owner, "More for grace", "Limits");
  await owner.getByRole("switch", { name: "Limits of their own" }).check();
  await owner.getByRole("textbox", { name: "Projects" }).fill("many");
  await owner.getByRole("button", { name: "Save", exact: true }).click();
  await owner.getByText("A limit is a whole number").waitFor();
  await owner.getByRole("textbox", { name: "Projects" }).fill("0");
  await owner.getByRole("button", { name: "Save", exact: true }).click();
  await owner.getByRole("cell", { name: "0 of 0", exact: true }).waitFor();
  await guest.getByRole("button", { name: "New project" }).first().click();
  await guest.getByLabel("Name", { exact: true }).fill("too-many");
  await guest.getByRole("button", { name: "Create", exact: true }).click();
  await guest.getByText("The project's owner is limited to 0 projects").first().waitFor();
  await guest.keyboard.press("Escape");

  // The dialog offers the regions, and says which does not answer.
  await owner.goto(url);
  await owner.getByRole("button", { name: "New project" }).first().click();
  await owner.getByRole("combobox", { name: "Region" }).click();
  await owner.getByRole("option", { name: "local: this server" }).waitFor();
  await owner.getByRole("option", { name: "far: Kubernetes, does not answer" }).waitFor();
  await owner.keyboard.press("Escape");
  await owner.keyboard.press("Escape");

  // A project is shared with a viewer: it appears by itself, and what they may not do is not offered.
  await owner.goto(url);
  await createProject(owner, "shop");
  await status(owner, "Running");
  await openTerminal(owner);
  await view(owner, "Settings");
  const panel = owner.getByRole("region", { name: "Sharing" });
  await panel.getByLabel("Share with").fill("nobody-of-that-name");
  await panel.getByRole("button", { name: "Share", exact: true }).click();
  await panel.getByRole("alert").waitFor();
  await panel.getByLabel("Share with").fill("grace");
  await choose(owner, "As", "Viewer");
  await panel.getByRole("button", { name: "Share", exact: true }).click();
  await guest.getByRole("link", { name: "shop" }).waitFor();
  await guest.getByRole("link", { name: "shop" }).click();
  await openTerminal(guest);
  await guest.getByText("You watch; typing takes an editor").waitFor();
  check((await guest.getByRole("button", { name: "Stop", exact: true }).count()) === 0, "a viewer is offered no stop");
  await type(guest, "echo typed-$((1+1))");
  await type(owner, "echo owner-$((40+2))");
  await sees(guest, "owner-42");
  check(!(await screen(guest)).includes("typed-"), "what a viewer types goes nowhere");
  for (const [where, control] of [["Environment", "Reveal values"], ["Files", "Upload"], ["Database", "psql in a terminal"], ["Settings", "Save"], ["Settings", "Delete this project"], ["Settings", "Share"]]) {
    await view(guest, where);
    await guest.getByRole("tab", { name: where, selected: true }).waitFor();
    check((await guest.getByRole("button", { name: control, exact: true }).count()) === 0, `a viewer is offered “${control}”`);
  }
  await guest.getByText("You are viewer here").waitFor();
  await shoot(guest, "viewer");

  // An editor works in it; the page changes under them, without a reload.
  await choose(owner, "Role of grace", "Editor");
  await guest.getByRole("button", { name: "Stop", exact: true }).waitFor();
  await openTerminal(guest);
  await type(guest, "echo by-grace-$((1+1))");
  await sees(owner, "by-grace-2");

  // A rename follows everybody who looks, and settings are kept.
  const form = owner.getByRole("form", { name: "Settings" });
  await form.getByLabel("Name").fill("store");
  await form.getByLabel("Description").fill("Sells things");
  await form.getByRole("button", { name: "Save" }).click();
  await owner.waitForURL("**/p/store?view=settings");
  await guest.goto(url);
  await guest.getByRole("link", { name: "store" }).waitFor();
  await guest.getByText("Sells things").waitFor();

  // Sharing ends, and with it the way in.
  await panel.getByRole("button", { name: "End sharing with grace" }).click();
  await owner.getByRole("dialog").getByRole("button", { name: "End it" }).click();
  await guest.getByRole("link", { name: "store" }).waitFor({ state: "detached" });
  await shoot(owner, "sharing");
  // Shared again it is there again; who is inside when that ends is shown out.
  await panel.getByLabel("Share with").fill("grace");
  await panel.getByRole("button", { name: "Share", exact: true }).click();
  await guest.getByRole("link", { name: "store" }).click();
  await openTerminal(guest);
  await panel.getByRole("button", { name: "End sharing with grace" }).click();
  await owner.getByRole("dialog").getByRole("button", { name: "End it" }).click();
  await guest.getByRole("heading", { name: "There is no project store" }).waitFor();
  await guest.getByRole("link", { name: "Your projects" }).click();

  // The owner sees what everybody's sandboxes use, and what the doctor finds.
  await owner.goto(`${url}/administration`);
  await owner.getByRole("tab", { name: "System" }).click();
  const use = owner.locator('[data-use="store"]');
  await use.getByRole("img").nth(1).waitFor();
  await until("a second sample", async () => /%/.test(await use.innerText()));
  check((await use.locator("polyline").last().getAttribute("points")).split(" ").length > 1, "the chart has a line");
  await owner.locator('[data-check="PostgreSQL"][data-state="good"]').waitFor();
  await owner.locator('[data-check="region far"][data-state="bad"]').waitFor();

  // Somebody who is disabled is out at once, and in again when enabled.
  await owner.getByRole("tab", { name: "Users" }).click();
  await menu(owner, "More for grace", "Disable");
  await owner.getByText("disabled").waitFor();
  await guest.reload();
  await guest.getByRole("heading", { name: "Sign in" }).waitFor();
  await guest.getByLabel("Login").fill("grace");
  await guest.getByRole("textbox", { name: "Password" }).fill("a password of the guest");
  await guest.getByRole("button", { name: "Sign in", exact: true }).click();
  await guest.getByRole("alert").waitFor();
  await menu(owner, "More for grace", "Enable");
  await owner.getByText("disabled").waitFor({ state: "detached" });
  await guest.getByRole("textbox", { name: "Password" }).fill("a password of the guest");
  await guest.getByRole("button", { name: "Sign in", exact: true }).click();
  await guest.getByRole("heading", { name: "Projects" }).waitFor();

  // A session is ended from another browser; a new password ends all others.
  const laptop = await person();
  await signIn(laptop, await signInLink());
  await owner.goto(`${url}/account`);
  await owner.getByText("this one").waitFor();
  await until("the other session", async () => (await owner.getByRole("button", { name: "End", exact: true }).count()) === 1);
  await owner.getByRole("button", { name: "End", exact: true }).click();
  await owner.getByRole("dialog").getByRole("button", { name: "End it" }).click();
  await until("its end", async () => (await owner.getByRole("button", { name: "End", exact: true }).count()) === 0);
  await laptop.reload();
  await laptop.getByRole("heading", { name: "Sign in" }).waitFor();
  await laptop.getByLabel("Login").fill("owner");
  await laptop.getByRole("textbox", { name: "Password" }).fill("a password of the owner");
  await laptop.getByRole("button", { name: "Sign in", exact: true }).click();
  await laptop.getByRole("link", { name: "store" }).waitFor();
  await owner.getByRole("textbox", { name: "Current password" }).fill("a password of the owner");
  await owner.getByRole("textbox", { name: "New password" }).fill("another password of the owner");
  await owner.getByRole("button", { name: "Change", exact: true }).click();
  await owner.getByText("Your other sessions have ended.").waitFor();
  await laptop.reload();
  await laptop.getByRole("heading", { name: "Sign in" }).waitFor();
});
