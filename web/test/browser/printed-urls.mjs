// URLs that commands print, given as arguments: a signed-in person opens each. The first one is a sign-in link.
import { check, run, signIn } from "./lib.mjs";

const [link, ...urls] = process.argv.slice(2);

await run(async ({ newPage }) => {
  const page = await newPage();
  await signIn(page, link);
  for (const url of urls) {
    const response = await page.goto(url);
    check(response?.ok(), `${url} has the status ${response?.status()}`);
    // A screen of the page, or the application.
    await page.getByRole("heading").or(page.locator(".term")).first().waitFor();
    const missing = page.getByRole("heading", { name: /not found|Failed/ });
    check((await missing.count()) === 0, `${url} shows “${await missing.allInnerTexts()}”`);
    if (new URL(url).searchParams.get("view") === "terminal") await page.locator('.term[data-tty="open"]').waitFor();
    else if (new URL(url).hostname.includes("--")) await page.getByRole("heading", { name: "The application" }).waitFor();
  }
});
