// Collaboration: two users share a terminal, the server is killed while pages are open, and a third user has no
// access.
import { api, check, createProject, escape, hasFocus, openTerminal, request, run, screen, sees, signIn, signInLink, status, type, until, url } from "./lib.mjs";

await run(async ({ newPage }) => {
  const one = await newPage();
  const two = await newPage();
  await signIn(one, await signInLink());
  await signIn(two, await signInLink());
  await createProject(one, "shared");
  await status(one, "Running");

  // The project appears in the second user's list without a reload.
  await two.getByRole("link", { name: "shared" }).click();
  await openTerminal(one);
  await openTerminal(two);
  await type(one, "echo from-$((1))");
  await sees(two, "from-1");
  await type(two, "echo from-$((2))");
  await sees(one, "from-2");

  // The server is killed. The page reports it, and keeps input that is typed meanwhile.
  // Keys that come while the line editor still has the terminal would not be translated as `cat` expects.
  await type(one, "marker=kept; stty -echo; echo coo''ked; cat > typed");
  await sees(one, "cooked");
  const typed = Array.from({ length: 300 }, (_, number) => number);
  let at = 0;
  const typing = (async () => {
    for (; at < typed.length; at++) {
      await one.keyboard.type(String(at));
      await one.keyboard.press("Enter");
    }
  })();
  // During typing: input in flight between page and shell is lost with the server, and must be sent again.
  await until("some lines", () => at > 100);
  await request("crash");
  await typing;
  await one.getByText("Connection to the server lost.").waitFor();
  await one.locator('.term[data-tty="lost"], .term[data-tty="connecting"]').first().waitFor();
  await one.keyboard.press("Control+d");
  await type(one, "stty echo; echo $marker-$((40+2))");
  await request("serve");
  await sees(one, "kept-42");
  const { stdout } = await api("POST", "/api/projects/shared/exec", { command: ["cat", "typed"] });
  check(stdout === typed.map((number) => `${number}\n`).join(""), `each line once and in order: ${stdout}`);
  await sees(two, "kept-42");
  check((await screen(one)).includes("from-1"), "the terminal shows its earlier output again");
  await one.getByText("Connection to the server lost.").waitFor({ state: "detached" });
  // The event stream has resumed: a stop by another client arrives.
  await api("POST", "/api/projects/shared/stop");
  await status(one, "Stopped");
  await status(two, "Stopped");

  // A change while a page loads is shown, whether the event stream or the first response is delayed.
  const phase = async (expected) => until(expected, async () => (await api("GET", "/api/projects/shared")).sandbox.status === expected);
  const late = await newPage();
  await signIn(late, await signInLink());
  const withDelayed = async (address, handle, change) => {
    let release;
    const released = new Promise((done) => (release = done));
    await late.route(address, (route) => handle(route, released), { times: 1 });
    const reached = late.waitForRequest(address);
    await late.goto(`${url}/p/shared`);
    await reached;
    await change();
    release();
  };
  await withDelayed(/\/api\/events/, async (route, released) => {
    await released;
    await route.continue();
  }, async () => {
    await status(late, "Stopped");
    await api("POST", "/api/projects/shared/start");
    await phase("RUNNING");
  });
  await status(late, "Running");
  const streams = late.waitForResponse(/\/api\/events/);
  await withDelayed(/\/api\/projects\/shared$/, async (route, released) => {
    const response = await route.fetch();
    await released;
    await route.fulfill({ response });
  }, async () => {
    await streams;
    await api("POST", "/api/projects/shared/stop");
    await phase("STOPPED");
  });
  await status(late, "Stopped");

  // Another user accepts an invitation, and has an empty list and no access to the project.
  const invitation = (await api("POST", "/api/users/invites", {})).url.replace(/^https?:\/\/[^/]+/, url);
  const other = await newPage();
  await other.goto(invitation);
  await other.getByRole("button", { name: "Sign in", exact: true }).click();
  await other.getByLabel("Login").fill("guest");
  await other.getByRole("textbox", { name: "Password" }).fill("a long enough password");
  await other.getByRole("button", { name: "Create account" }).click();
  await other.getByRole("heading", { name: "Create your first project" }).waitFor();
  check((await other.getByText("shared").count()) === 0, "the guest sees no project name");
  const address = (path) => new URL(path, url).href;
  await other.goto(address("/p/shared"));
  await other.getByRole("heading", { name: "Project shared not found" }).waitFor();
  const id = (await api("GET", "/api/projects/shared")).id;
  await other.goto(address(`/p/${id}`));
  await other.getByRole("heading", { name: `Project ${id} not found` }).waitFor();
  await other.goto(address("/administration"));
  await other.getByRole("heading", { name: "Administration" }).waitFor();
  await other.getByRole("alert").first().waitFor();
  await other.getByRole("button", { name: "Account menu" }).click();
  await hasFocus(other.getByRole("menu"));
  check((await other.getByRole("menuitem", { name: "Administration" }).count()) === 0, "a member has no Administration menu item");
  await escape(other);
  await other.getByRole("menu").waitFor({ state: "detached" });

  // The next sign-in is with the password; a wrong password shows the server's error.
  await other.getByRole("button", { name: "Account menu" }).click();
  await other.getByRole("menuitem", { name: "Sign out" }).click();
  await other.getByLabel("Login").fill("guest");
  await other.getByRole("textbox", { name: "Password" }).fill("wrong");
  await other.getByRole("button", { name: "Sign in", exact: true }).click();
  await until("the error", async () => (await other.getByRole("alert").innerText()).length > 10);
  await other.getByRole("textbox", { name: "Password" }).fill("a long enough password");
  await other.getByRole("button", { name: "Sign in", exact: true }).click();
  await other.getByRole("heading", { name: "Projects" }).waitFor();
});
