// An application that signs people in with a SameSite=Lax cookie, in the preview beside the terminal: below
// www.fsa.localhost and apps.fsa.localhost the page and the application are one site.
import { api, check, put, run, signIn, signInLink, until, url } from "./lib.mjs";

const application = `
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        user = "ada" if "user=ada" in (self.headers.get("cookie") or "") else "nobody"
        body = f"<h1>{user}</h1><p></p><form method=post action=/login><button>Log in</button></form><script>localStorage.setItem('a', 'kept'); document.querySelector('p').textContent = localStorage.getItem('a')</script>".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_POST(self):
        self.send_response(303)
        self.send_header("Location", "/")
        self.send_header("Set-Cookie", "user=ada; Path=/; HttpOnly; SameSite=Lax")
        self.send_header("Content-Length", "0")
        self.end_headers()
http.server.ThreadingHTTPServer(("", 3000), Handler).serve_forever()
`;

await run(async ({ newPage }) => {
  const origin = url.replace("//localhost", "//www.fsa.localhost");
  await api("POST", "/api/projects", { name: "shop", template: "host" });
  await until("the project runs", async () => (await api("GET", "/api/projects/shop")).sandbox?.status === "RUNNING");
  await put("shop", "app.py", application);
  await api("PATCH", "/api/projects/shop", { startCommand: "python3 app.py" });
  const port = async () => (await api("GET", "/api/projects/shop/ports")).items.find((port) => port.port === 3000 && port.process);
  const { url: preview } = await until("the application listens", port);
  check(new URL(preview).hostname === "shop--3000.apps.fsa.localhost", preview);

  const page = await newPage();
  // A bookmark of localhost leads to the origin, with the link's token.
  await signIn(page, await signInLink());
  check(page.url().startsWith(origin), page.url());
  await page.goto(`${url}/p/shop?view=preview`);
  check(page.url() === `${origin}/p/shop?view=preview`, page.url());
  const frame = page.frameLocator("iframe.frame");
  await frame.getByRole("heading", { name: "nobody" }).waitFor();
  await frame.getByText("kept").waitFor();
  await frame.getByRole("button", { name: "Log in" }).click();
  await frame.getByRole("heading", { name: "ada" }).waitFor();
  await page.getByRole("button", { name: "Reload", exact: true }).click();
  await frame.getByRole("heading", { name: "ada" }).waitFor();

  // The preview's former address leads to the present one.
  await page.goto(preview.replace(".apps.fsa.localhost", ".localhost"));
  check(page.url().startsWith(preview), page.url());
  await page.getByRole("heading", { name: "ada" }).waitFor();
});
