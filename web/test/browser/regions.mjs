// Project in another region, a Kubernetes cluster, where each stage takes a while: the page shows the stages as they
// progress.
import { api, check, openTerminal, run, screenshot, sees, signIn, status, type } from "./lib.mjs";

/** Records each state and duration that the list of stages shows, on every render. */
const recordStages = () => {
  window.records = [];
  const seen = new Set();
  const observe = () => {
    for (const item of document.querySelectorAll(".stages [data-stage]")) {
      const record = { stage: item.dataset.stage, state: item.dataset.state, time: item.querySelector("p")?.textContent ?? "" };
      const key = JSON.stringify(record);
      if (seen.has(key)) continue;
      seen.add(key);
      window.records.push(record);
    }
  };
  new MutationObserver(observe).observe(document.body, { subtree: true, childList: true, characterData: true, attributes: true });
};

await run(async ({ newPage }) => {
  const page = await newPage();
  await signIn(page);
  await page.evaluate(recordStages);

  await page.getByRole("button", { name: "New project" }).first().click();
  await page.getByLabel("Name", { exact: true }).fill("there");
  await page.getByRole("combobox", { name: "Region" }).click();
  await page.getByRole("option", { name: "local (this server)" }).waitFor();
  await page.getByRole("option", { name: "cluster (Kubernetes)", exact: true }).click();
  await page.getByRole("button", { name: "Create project", exact: true }).click();
  await page.waitForURL("**/p/there");
  await page.locator('.stages [data-state="active"]').first().waitFor();
  await screenshot(page, "stages");
  await status(page, "Running");

  const records = await page.evaluate(() => window.records);
  const stages = [...new Set(records.map((record) => record.stage))];
  check(stages.length === 5, `five stages were shown: ${stages}`);
  const active = records.filter((record) => record.stage === "ContainerReady" && record.state === "active");
  check(new Set(active.map((record) => record.time)).size > 1, `the duration of an active stage increases: ${JSON.stringify(records)}`);
  const done = records.filter((record) => record.state === "done");
  check(done.length > 0 && done.every((record) => /\d/.test(record.time)), `a done stage has a duration: ${JSON.stringify(done)}`);
  check(records.some((record) => record.stage === "Ready" && record.state === "pending"), `the last stage was pending: ${JSON.stringify(records)}`);

  // The project is in that region, and its terminal works.
  const project = await api("GET", "/api/projects/there");
  check(project.region === "cluster", `the project is in the region ${project.region}`);
  await openTerminal(page);
  await type(page, "echo at-$(hostname)");
  await sees(page, "at-there");
});
