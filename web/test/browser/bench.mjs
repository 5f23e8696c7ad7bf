// Benchmarks of the page: JavaScript size and load time of the first screen, terminal output compared with the bare
// socket, latency of live updates, and a long list.
import { api, check, openTerminal, run, screen, signIn, type, until, url } from "./lib.mjs";

const megabytes = 50;
const many = 500;
const results = [];
const result = (name, value, target) => results.push({ name, value, target });

await run(async ({ newPage }) => {
  const page = await newPage();
  await signIn(page);

  // A cold cache, with an existing session.
  const session = await page.context().storageState();
  const times = [];
  let size = 0;
  for (let round = 0; round < 5; round++) {
    const cold = await newPage({ storageState: session });
    await cold.goto(url);
    await cold.getByRole("button", { name: "New project" }).first().waitFor();
    times.push(await cold.evaluate(() => performance.now()));
    size = await cold.evaluate(() => performance.getEntriesByType("resource").filter((one) => one.name.endsWith(".js")).reduce((sum, one) => sum + one.encodedBodySize, 0));
    await cold.context().close();
  }
  times.sort((a, b) => a - b);
  result("JavaScript of the projects page, compressed", `${(size / 1000).toFixed(0)} kB`, "≤ 250 kB");
  result("cold load until interactive, median of 5", `${times[2].toFixed(0)} ms (longest ${times[4].toFixed(0)})`, "≤ 1000 ms");

  await api("POST", "/api/projects", { name: "load", template: "host" });
  await until("the project is running", async () => (await api("GET", "/api/projects/load")).sandbox?.status === "RUNNING");
  const created = await api("POST", "/api/projects/load/exec", { command: ["sh", "-c", `base64 /dev/urandom | head -c ${megabytes}000000 > big`], timeoutSeconds: 60 });
  check(created.exitCode === 0, created.stderr);
  await page.goto(`${url}/p/load?view=activity`);
  await openTerminal(page);
  const id = (await api("GET", "/api/projects/load")).id;

  const socketTime = await page.evaluate(
    (path) =>
      new Promise((done, fail) => {
        const socket = new WebSocket(path, "tty");
        socket.binaryType = "arraybuffer";
        let began = 0;
        let tail = "";
        socket.onopen = () => {
          socket.send(JSON.stringify({ AuthToken: "", columns: 80, rows: 24 }));
          socket.send(new TextEncoder().encode("0stty -echo; cat big; echo fin''ished\r"));
          began = performance.now();
        };
        socket.onmessage = ({ data }) => {
          tail = (tail + new TextDecoder().decode(new Uint8Array(data).slice(-200))).slice(-400);
          if (tail.includes("finished")) {
            done(performance.now() - began);
            socket.close();
          }
        };
        socket.onerror = () => fail(new Error("the socket failed"));
      }),
    `${url.replace("http", "ws")}/api/projects/${id}/terminal?session=raw`,
  );
  await page.evaluate(() => {
    window.longest = 0;
    new PerformanceObserver((list) => list.getEntries().forEach((one) => (window.longest = Math.max(window.longest, one.duration)))).observe({ entryTypes: ["longtask"] });
  });
  const began = Date.now();
  await type(page, "cat big; echo fin''ished");
  await until("the end of the file", async () => (await screen(page)).includes("finished"), 180_000);
  const shown = Date.now() - began;
  const longest = await page.evaluate(() => window.longest);
  result(`cat of ${megabytes} MB on the screen`, `${(shown / 1000).toFixed(1)} s; the socket alone ${(socketTime / 1000).toFixed(1)} s; ${(shown / socketTime).toFixed(2)}×`, "≤ 2×");
  result("longest task meanwhile", `${longest.toFixed(0)} ms`, "≤ 100 ms");

  // A lifecycle action by another client: from its request until the new phase is drawn.
  const phases = { stop: ["STOPPING", "STOPPED"], start: ["STARTING", "RUNNING"] };
  const latencies = [];
  for (let round = 0; round < 5; round++) {
    for (const [action, [first, last]] of Object.entries(phases)) {
      const drawn = page.locator(`.tools [data-status="${first}"], .tools [data-status="${last}"]`).first().waitFor();
      const requested = Date.now();
      await api("POST", `/api/projects/load/${action}`);
      await drawn;
      latencies.push(Date.now() - requested);
      await until(last, async () => (await api("GET", "/api/projects/load")).sandbox?.status === last);
    }
  }
  latencies.sort((a, b) => a - b);
  result("a change by another client is shown, median of 10", `${latencies[5]} ms (longest ${latencies[9]})`, "≤ 1000 ms");

  for (let number = 0; number < many; number += 10) {
    await Promise.all(Array.from({ length: 10 }, (_, index) => api("POST", "/api/projects", { name: `p${number + index}`, template: "host", start: false })));
  }
  await page.goto(url);
  await page.locator(".row").nth(many - 1).waitFor({ state: "attached" });
  const gap = await page.evaluate(async () => {
    const box = document.querySelector(".screen");
    let last = performance.now();
    let longest = 0;
    let frames = 0;
    const began = last;
    while (performance.now() - began < 4_000) {
      await new Promise(requestAnimationFrame);
      const now = performance.now();
      longest = Math.max(longest, now - last);
      last = now;
      frames++;
      box.scrollTop = (box.scrollHeight - box.clientHeight) * ((now - began) / 4_000);
    }
    return { longest, frames };
  });
  result(`scrolling ${many} projects for 4 s`, `longest gap ${gap.longest.toFixed(0)} ms, ${gap.frames} frames`, "< 1000 ms");
  for (const { name, value, target } of results) process.stdout.write(`${name}\t${value}\t${target}\n`);
});
