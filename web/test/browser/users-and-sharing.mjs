// Users and sharing: first run, invitations, limits, project roles, disabled users, sessions and passwords; each user
// sees the other's changes at once. The server has GitHub configured, and a second region that is unavailable.
import { check, createProject, escape, openTerminal, run, screen, screenshot, sees, signIn, signInLink, status, type, until, url } from "./lib.mjs";

const view = (page, name) => page.getByRole("tab", { name, exact: true }).click();
const menu = async (page, name, item) => {
  await page.getByRole("button", { name, exact: true }).click();
  await page.getByRole("menuitem", { name: item, exact: true }).click();
};
const choose = async (page, label, option) => {
  await page.getByRole("combobox", { name: label, exact: true }).click();
  await page.getByRole("option", { name: option, exact: true }).click();
};

await run(async ({ newPage }) => {
  const owner = await newPage();
  await signIn(owner);

  // The owner of a new server sees failed health checks, and sets a password and an agent key.
  await owner.getByRole("heading", { name: "Welcome to FullStack Agent" }).waitFor();
  await owner.locator('[data-check="region far"][data-state="bad"]').waitFor();
  await owner.getByRole("textbox", { name: "New password" }).fill("short");
  await owner.getByRole("button", { name: "Set password", exact: true }).click();
  await owner.getByRole("alert").first().waitFor();
  await owner.getByRole("textbox", { name: "New password" }).fill("a password of the owner");
  await owner.getByRole("button", { name: "Set password", exact: true }).click();
  await owner.getByText("You can sign in with your password.").waitFor();
  await owner.getByRole("textbox", { name: "API key", exact: true }).fill("sk-not-a-key");
  await owner.getByRole("button", { name: "Save key" }).click();
  await owner.getByText("Set for all of your projects: ANTHROPIC_API_KEY.").waitFor();
  check(!(await owner.content()).includes("sk-not-a-key"), "the key is not on the page");

  // The sign-in page redirects to GitHub, with state and PKCE.
  const outside = await newPage();
  await outside.goto(`${url}/sign-in`);
  await outside.route("https://github.com/**", (route) => route.fulfill({ body: "GitHub mock", contentType: "text/plain" }));
  await outside.getByRole("button", { name: "Sign in with GitHub" }).click();
  await outside.getByText("GitHub mock").waitFor();
  const parameters = new URL(outside.url()).searchParams;
  check(parameters.get("client_id") === "an-app" && parameters.get("state") && parameters.get("code_challenge_method") === "S256", `the request to GitHub was ${outside.url()}`);
  await outside.context().close();

  // A user is invited, and gets custom limits while signed in.
  await owner.goto(`${url}/administration`);
  await owner.getByRole("button", { name: "Invite user" }).click();
  const invitation = (await owner.getByLabel("Link", { exact: true }).inputValue()).replace(/^https?:\/\/[^/]+/, url);
  await escape(owner);
  const guest = await newPage();
  await guest.goto(invitation);
  await guest.getByRole("button", { name: "Sign in", exact: true }).click();
  await guest.getByLabel("Login").fill("grace");
  await guest.getByRole("textbox", { name: "Password" }).fill("a password of the guest");
  await guest.getByRole("button", { name: "Create account" }).click();
  await guest.getByRole("heading", { name: "Create your first project" }).waitFor();
  await owner.reload();
  await menu(owner, "Actions for grace", "Edit limits");
  await owner.getByRole("switch", { name: "Custom limits" }).check();
  await owner.getByRole("textbox", { name: "Projects" }).fill("many");
  await owner.getByRole("button", { name: "Save", exact: true }).click();
  await owner.getByText("Enter a whole number").waitFor();
  await owner.getByRole("textbox", { name: "Projects" }).fill("0");
  await owner.getByRole("button", { name: "Save", exact: true }).click();
  await owner.getByRole("cell", { name: "0 of 0", exact: true }).waitFor();
  await guest.getByRole("button", { name: "New project" }).first().click();
  await guest.getByLabel("Name", { exact: true }).fill("too-many");
  await guest.getByRole("button", { name: "Create project", exact: true }).click();
  await guest.getByText("The project's owner is limited to 0 projects").first().waitFor();
  await escape(guest);

  // The dialog lists the regions, and marks the one that is unavailable.
  await owner.goto(url);
  await owner.getByRole("button", { name: "New project" }).first().click();
  await owner.getByRole("combobox", { name: "Region" }).click();
  await owner.getByRole("option", { name: "local (this server)" }).waitFor();
  await owner.getByRole("option", { name: "far (Kubernetes, unavailable)" }).waitFor();
  await owner.keyboard.press("Escape");
  await owner.keyboard.press("Escape");

  // A project is shared with a viewer: it appears without a reload, and controls without permission are hidden.
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
  await choose(owner, "Role", "Viewer");
  await panel.getByRole("button", { name: "Share", exact: true }).click();
  await guest.getByRole("link", { name: "shop" }).waitFor();
  await guest.getByRole("link", { name: "shop" }).click();
  await openTerminal(guest);
  await guest.getByText("Typing requires the editor role").waitFor();
  check((await guest.getByRole("button", { name: "Stop", exact: true }).count()) === 0, "a viewer has no Stop button");
  await type(guest, "echo typed-$((1+1))");
  await type(owner, "echo owner-$((40+2))");
  await sees(guest, "owner-42");
  check(!(await screen(guest)).includes("typed-"), "the input of a viewer is ignored");
  for (const [where, control] of [["Environment", "Reveal values"], ["Files", "Upload"], ["Database", "Open psql"], ["Settings", "Save"], ["Settings", "Delete project"], ["Settings", "Share"]]) {
    await view(guest, where);
    await guest.getByRole("tab", { name: where, selected: true }).waitFor();
    check((await guest.getByRole("button", { name: control, exact: true }).count()) === 0, `a viewer has the button “${control}”`);
  }
  await guest.getByText("You have the viewer role").waitFor();
  await screenshot(guest, "viewer");

  // As an editor the user gets more controls without a reload, and can type.
  await choose(owner, "Role of grace", "Editor");
  await guest.getByRole("button", { name: "Stop", exact: true }).waitFor();
  await openTerminal(guest);
  await type(guest, "echo by-grace-$((1+1))");
  await sees(owner, "by-grace-2");

  // A rename reaches all open pages, and settings are saved.
  const form = owner.getByRole("form", { name: "Settings" });
  await form.getByLabel("Name").fill("store");
  await form.getByLabel("Description").fill("Sells things");
  await form.getByRole("button", { name: "Save" }).click();
  await owner.waitForURL("**/p/store?view=settings");
  await guest.goto(url);
  await guest.getByRole("link", { name: "store" }).waitFor();
  await guest.getByText("Sells things").waitFor();

  // A removed member loses access.
  await panel.getByRole("button", { name: "Remove grace" }).click();
  await owner.getByRole("dialog").getByRole("button", { name: "Remove", exact: true }).click();
  await guest.getByRole("link", { name: "store" }).waitFor({ state: "detached" });
  await screenshot(owner, "sharing");
  // Shared again, it appears again; a removed member who has it open loses the page.
  await panel.getByLabel("Share with").fill("grace");
  await panel.getByRole("button", { name: "Share", exact: true }).click();
  await guest.getByRole("link", { name: "store" }).click();
  await openTerminal(guest);
  await panel.getByRole("button", { name: "Remove grace" }).click();
  await owner.getByRole("dialog").getByRole("button", { name: "Remove", exact: true }).click();
  await guest.getByRole("heading", { name: "Project store not found" }).waitFor();
  await guest.getByRole("link", { name: "Go to projects" }).click();

  // The owner sees the usage of all sandboxes, and the health checks.
  await owner.goto(`${url}/administration`);
  await owner.getByRole("tab", { name: "System" }).click();
  const usage = owner.locator('[data-usage="store"]');
  await usage.getByRole("img").nth(1).waitFor();
  await until("a second sample", async () => /%/.test(await usage.innerText()));
  check((await usage.locator("polyline").last().getAttribute("points")).split(" ").length > 1, "the chart has a line");
  await owner.locator('[data-check="PostgreSQL"][data-state="good"]').waitFor();
  await owner.locator('[data-check="region far"][data-state="bad"]').waitFor();

  // A disabled user is signed out at once, and can sign in again when enabled.
  await owner.getByRole("tab", { name: "Users" }).click();
  await menu(owner, "Actions for grace", "Disable");
  await owner.getByText("disabled").waitFor();
  await guest.reload();
  await guest.getByRole("heading", { name: "Sign in" }).waitFor();
  await guest.getByLabel("Login").fill("grace");
  await guest.getByRole("textbox", { name: "Password" }).fill("a password of the guest");
  await guest.getByRole("button", { name: "Sign in", exact: true }).click();
  await guest.getByRole("alert").waitFor();
  await menu(owner, "Actions for grace", "Enable");
  await owner.getByText("disabled").waitFor({ state: "detached" });
  await guest.getByRole("textbox", { name: "Password" }).fill("a password of the guest");
  await guest.getByRole("button", { name: "Sign in", exact: true }).click();
  await guest.getByRole("heading", { name: "Projects" }).waitFor();

  // A session is revoked from another browser; a new password signs out all other sessions.
  const laptop = await newPage();
  await signIn(laptop, await signInLink());
  await owner.goto(`${url}/account`);
  await owner.getByText("current session").waitFor();
  await until("the other session", async () => (await owner.getByRole("button", { name: "Revoke", exact: true }).count()) === 1);
  await owner.getByRole("button", { name: "Revoke", exact: true }).click();
  await owner.getByRole("dialog").getByRole("button", { name: "Revoke", exact: true }).click();
  await until("its end", async () => (await owner.getByRole("button", { name: "Revoke", exact: true }).count()) === 0);
  await laptop.reload();
  await laptop.getByRole("heading", { name: "Sign in" }).waitFor();
  await laptop.getByLabel("Login").fill("owner");
  await laptop.getByRole("textbox", { name: "Password" }).fill("a password of the owner");
  await laptop.getByRole("button", { name: "Sign in", exact: true }).click();
  await laptop.getByRole("link", { name: "store" }).waitFor();
  await owner.getByRole("textbox", { name: "Current password" }).fill("a password of the owner");
  await owner.getByRole("textbox", { name: "New password" }).fill("another password of the owner");
  await owner.getByRole("button", { name: "Change password", exact: true }).click();
  await owner.getByText("Your other sessions were signed out.").waitFor();
  await laptop.reload();
  await laptop.getByRole("heading", { name: "Sign in" }).waitFor();
});
