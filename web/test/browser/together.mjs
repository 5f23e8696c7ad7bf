// Two people at one terminal, a server that is killed under an open page, and somebody who sees
// nothing of it all.
import { api, ask, check, createProject, openTerminal, screen, sees, signIn, signInLink, status, story, type, until, url } from "./lib.mjs";

await story(async ({ person }) => {
  const one = await person();
  const two = await person();
  await signIn(one, await signInLink());
  await signIn(two, await signInLink());
  await createProject(one, "shared");
  await status(one, "Running");

  // The second one's list shows it without a reload.
  await two.getByRole("link", { name: "shared" }).click();
  await openTerminal(one);
  await openTerminal(two);
  await type(one, "echo from-$((1))");
  await sees(two, "from-1");
  await type(two, "echo from-$((2))");
  await sees(one, "from-2");

  // The server is killed. Both pages say so, and keep what is typed meanwhile.
  await type(one, "marker=kept; stty -echo; cat > typed");
  const typed = Array.from({ length: 300 }, (_, number) => number);
  let at = 0;
  const typing = (async () => {
    for (; at < typed.length; at++) {
      await one.keyboard.type(String(at));
      await one.keyboard.press("Enter");
    }
  })();
  // In the middle of it: what is under way between page and shell goes down with the server.
  await until("some lines", () => at > 100);
  await ask("crash");
  await typing;
  await one.getByText("The server does not answer.").waitFor();
  await one.locator('.term[data-tty="lost"], .term[data-tty="connecting"]').first().waitFor();
  await one.keyboard.press("Control+d");
  await type(one, "stty echo; echo $marker-$((40+2))");
  await ask("serve");
  await sees(one, "kept-42");
  const { stdout } = await api("POST", "/api/projects/shared/exec", { command: ["cat", "typed"] });
  check(stdout === typed.map((number) => `${number}\n`).join(""), `each key once, in its order: ${stdout}`);
  await sees(two, "kept-42");
  check((await screen(one)).includes("from-1"), "the terminal shows what it showed before");
  await one.getByText("The server does not answer.").waitFor({ state: "detached" });
  // Its events are heard again: a stop by another client arrives.
  await api("POST", "/api/projects/shared/stop");
  await status(one, "Stopped");
  await status(two, "Stopped");

  // What changes while a page is being loaded is on it, be its stream of events late or its first answer.
  const phase = async (word) => until(word, async () => (await api("GET", "/api/projects/shared")).sandbox.status === word);
  const late = await person();
  await signIn(late, await signInLink());
  const held = async (address, hold, change) => {
    let release;
    const released = new Promise((done) => (release = done));
    await late.route(address, (route) => hold(route, released), { times: 1 });
    const reached = late.waitForRequest(address);
    await late.goto(`${url}/p/shared`);
    await reached;
    await change();
    release();
  };
  await held(/\/api\/events/, async (route, released) => {
    await released;
    await route.continue();
  }, async () => {
    await status(late, "Stopped");
    await api("POST", "/api/projects/shared/start");
    await phase("RUNNING");
  });
  await status(late, "Running");
  const streams = late.waitForResponse(/\/api\/events/);
  await held(/\/api\/projects\/shared$/, async (route, released) => {
    const response = await route.fetch();
    await released;
    await route.fulfill({ response });
  }, async () => {
    await streams;
    await api("POST", "/api/projects/shared/stop");
    await phase("STOPPED");
  });
  await status(late, "Stopped");

  // Somebody else accepts an invitation, and has an empty list and no way in.
  const invitation = (await api("POST", "/api/users/invites", {})).url.replace(/^https?:\/\/[^/]+/, url);
  const other = await person();
  await other.goto(invitation);
  await other.getByRole("button", { name: "Sign in", exact: true }).click();
  await other.getByLabel("Login").fill("guest");
  await other.getByRole("textbox", { name: "Password" }).fill("a long enough password");
  await other.getByRole("button", { name: "Begin" }).click();
  await other.getByRole("heading", { name: "Make your first project" }).waitFor();
  check((await other.getByText("shared").count()) === 0, "the guest sees no name of a project");
  const address = (path) => new URL(path, url).href;
  await other.goto(address("/p/shared"));
  await other.getByRole("heading", { name: "There is no project shared" }).waitFor();
  const id = (await api("GET", "/api/projects/shared")).id;
  await other.goto(address(`/p/${id}`));
  await other.getByRole("heading", { name: `There is no project ${id}` }).waitFor();
  await other.goto(address("/administration"));
  await other.getByRole("heading", { name: "Administration" }).waitFor();
  await other.getByRole("alert").first().waitFor();
  await other.getByRole("button", { name: "Account menu" }).click();
  check((await other.getByRole("menuitem", { name: "Administration" }).count()) === 0, "a member is offered no administration");
  await other.keyboard.press("Escape");

  // A second sign-in is with the password; a wrong one is refused in the server's words.
  await other.getByRole("button", { name: "Account menu" }).click();
  await other.getByRole("menuitem", { name: "Sign out" }).click();
  await other.getByLabel("Login").fill("guest");
  await other.getByRole("textbox", { name: "Password" }).fill("wrong");
  await other.getByRole("button", { name: "Sign in", exact: true }).click();
  await until("the refusal", async () => (await other.getByRole("alert").innerText()).length > 10);
  await other.getByRole("textbox", { name: "Password" }).fill("a long enough password");
  await other.getByRole("button", { name: "Sign in", exact: true }).click();
  await other.getByRole("heading", { name: "Projects" }).waitFor();
});
