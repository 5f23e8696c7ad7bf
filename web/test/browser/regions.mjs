// A project made in another region than the server's own, a cluster, where each step takes its time: its stages
// are seen as they move.
import { api, check, openTerminal, sees, shoot, signIn, status, story, type } from "./lib.mjs";

/** Remembers each state and time that the list of stages shows, as often as the page draws them. */
const watch = () => {
  window.moves = [];
  const seen = new Set();
  const look = () => {
    for (const item of document.querySelectorAll(".stages [data-stage]")) {
      const move = { stage: item.dataset.stage, state: item.dataset.state, time: item.querySelector("p")?.textContent ?? "" };
      const key = JSON.stringify(move);
      if (seen.has(key)) continue;
      seen.add(key);
      window.moves.push(move);
    }
  };
  new MutationObserver(look).observe(document.body, { subtree: true, childList: true, characterData: true, attributes: true });
};

await story(async ({ person }) => {
  const page = await person();
  await signIn(page);
  await page.evaluate(watch);

  await page.getByRole("button", { name: "New project" }).first().click();
  await page.getByLabel("Name", { exact: true }).fill("there");
  await page.getByRole("combobox", { name: "Region" }).click();
  await page.getByRole("option", { name: "local: this server" }).waitFor();
  await page.getByRole("option", { name: "cluster: Kubernetes", exact: true }).click();
  await page.getByRole("button", { name: "Create", exact: true }).click();
  await page.waitForURL("**/p/there");
  await page.locator('.stages [data-state="active"]').first().waitFor();
  await shoot(page, "stages");
  await status(page, "Running");

  const moves = await page.evaluate(() => window.moves);
  const stages = [...new Set(moves.map((move) => move.stage))];
  check(stages.length === 5, `five stages were shown: ${stages}`);
  const active = moves.filter((move) => move.stage === "ContainerReady" && move.state === "active");
  check(new Set(active.map((move) => move.time)).size > 1, `the time of a stage goes on while it is under way: ${JSON.stringify(moves)}`);
  const done = moves.filter((move) => move.state === "done");
  check(done.length > 0 && done.every((move) => /\d/.test(move.time)), `what is done says how long it took: ${JSON.stringify(done)}`);
  check(moves.some((move) => move.stage === "Ready" && move.state === "pending"), `the last one waited: ${JSON.stringify(moves)}`);

  // It lives there, and works as one here does.
  const made = await api("GET", "/api/projects/there");
  check(made.region === "cluster", `it is in ${made.region}`);
  await openTerminal(page);
  await type(page, "echo at-$(hostname)");
  await sees(page, "at-there");
});
