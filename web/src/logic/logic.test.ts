// The pure parts of the page.
import { describe, expect, it } from "vitest";
import type { Project } from "../api/client";
import { address } from "./address";
import { plain } from "./ansi";
import { arranged } from "./arrange";
import { browser } from "./browser";
import { parseDotenv } from "./dotenv";
import { framable } from "./frame";
import { ending, known } from "./language";
import { limitsOf, usedOf } from "./limits";
import { ranked } from "./match";
import { nameProblem, suggestName } from "./name";
import { joined, parent } from "./path";
import { addressed, may } from "./role";
import { area, points, shares, started } from "./samples";
import { nextSession } from "./sessions";
import { quoted } from "./shell";
import { lengths } from "./stages";
import { rows } from "./tables";
import { ago, bytes, took } from "./time";

describe("a project's name", () => {
  it("is taken as the server takes it", () => {
    for (const name of ["a", "my-app", "a1", "x".repeat(40)]) expect(nameProblem(name)).toBeUndefined();
    for (const name of ["", "1a", "-a", "a-", "a--b", "A", "a_b", "ä", "x".repeat(41)]) expect(nameProblem(name)).toBeTruthy();
  });
  it("is suggested, where a suggestion is a name", () => {
    expect(suggestName("My App!")).toBe("my-app");
    expect(suggestName("--9 Lives--")).toBe("lives");
    expect(nameProblem(suggestName(`${"long ".repeat(20)}`))).toBeUndefined();
  });
});

describe("a pasted .env", () => {
  it("has comments, exports and quotes", () => {
    const { variables, problems } = parseDotenv(
      "# first\nA=1\nexport B = two # why\nC='a # b'\nD=\"line\\nnext \\\"x\\\"\"\nE=\nF=a=b\r\nG='raw\\n'",
    );
    expect(problems).toEqual([]);
    expect(variables).toEqual({ A: "1", B: "two", C: "a # b", D: 'line\nnext "x"', E: "", F: "a=b", G: "raw\\n" });
  });
  it("may hold a value of several lines, such as a key", () => {
    expect(parseDotenv('KEY="-----BEGIN\nabc\n-----END"\nX=1').variables).toEqual({ KEY: "-----BEGIN\nabc\n-----END", X: "1" });
  });
  it("says which line is none", () => {
    expect(parseDotenv("A=1\nnonsense\n2B=x\nC='open").problems.map(({ line }) => line)).toEqual([2, 3, 4]);
  });
});

describe("stages", () => {
  const stage = (state: string, since: string) => ({ stage: "Ready", title: "", state, since }) as Parameters<typeof lengths>[0][number];
  it("took as long as the time between their ends, the first two side by side", () => {
    const at = (second: number) => `2026-01-01T00:00:0${second}Z`;
    const found = lengths(
      [stage("done", at(1)), stage("done", at(3)), stage("done", at(4)), stage("active", at(4)), stage("pending", at(0))],
      at(0),
      Date.parse(at(6)),
    );
    expect(found).toEqual([1000, 3000, 1000, 2000, undefined]);
    // On a cluster the network is there while the first two still go on.
    const early = lengths([stage("active", at(0)), stage("active", at(1)), stage("done", at(2)), stage("pending", at(0))], at(0), Date.parse(at(6)));
    expect(early).toEqual([6000, 5000, 2000, undefined]);
  });
});

describe("the list of projects", () => {
  const project = (name: string, status: string, updatedAt: string) => ({ name, updatedAt, sandbox: { status } }) as Project;
  const all = [project("beta", "RUNNING", "2026-01-02"), project("alpha", "STOPPED", "2026-01-03"), project("gamma", "ERROR", "2026-01-01")];
  const names = (found: Project[]) => found.map(({ name }) => name);
  it("has three orders and a search", () => {
    expect(names(arranged(all, "", "name"))).toEqual(["alpha", "beta", "gamma"]);
    expect(names(arranged(all, "", "changed"))).toEqual(["alpha", "beta", "gamma"]);
    expect(names(arranged(all, "", "status"))).toEqual(["gamma", "beta", "alpha"]);
    expect(names(arranged(all, "amm", "name"))).toEqual(["gamma"]);
    expect(names(all)).toEqual(["beta", "alpha", "gamma"]);
  });
});

describe("small things", () => {
  it("finds commands by a few letters, the nearest first", () => {
    expect(ranked(["Stop the sandbox", "my-stop", "start"], "sto", (x) => x)).toEqual(["Stop the sandbox", "my-stop"]);
    expect(ranked(["environment"], "evn", (x) => x)).toEqual(["environment"]);
    expect(ranked(["a"], "z", (x) => x)).toEqual([]);
  });
  it("makes a path of what is typed into an address bar", () => {
    expect(address("about?x=1#y")).toBe("/about?x=1#y");
    expect(address("http://other:1/a")).toBe("/a");
    expect(address("https://other")).toBe("/");
  });
  it("frames a private preview only where the browser keeps its sign-in", () => {
    expect(framable("http://localhost:8080/p/x", "http://x--3000.localhost:8080/", "private")).toBe(true);
    expect(framable("https://fsa.example/", "https://x--3000.apps.example/", "link")).toBe(true);
    expect(framable("http://fsa.lan/", "http://x--3000.fsa.lan/", "private")).toBe(true);
    expect(framable("http://10.0.0.5/", "http://x--3000.apps.lan/", "private")).toBe(false);
    expect(framable("http://10.0.0.5/", "http://x--3000.apps.lan/", "public")).toBe(true);
  });
  it("takes control sequences out of logs", () => {
    expect(plain("\x1b[1;31mred\x1b[0m \x1b]0;title\x07x\ty\r")).toBe("red x\ty");
  });
  it("joins paths in the project's folder and outside", () => {
    expect(joined(".", "a")).toBe("a");
    expect(joined("a", "b")).toBe("a/b");
    expect([parent("a"), parent("a/b"), parent("/a")]).toEqual([".", "a", "/"]);
  });
  it("knows languages by a file's ending", () => {
    expect(ending("a/b.C.TS")).toBe("ts");
    expect([known("x.tsx"), known("Makefile"), known("x.constructor")]).toEqual([true, false, false]);
  });
  it("quotes a file's name for the shell", () => {
    expect(quoted("a.txt")).toBe("a.txt");
    expect(quoted("it's $(x).txt")).toBe(`'it'\\''s $(x).txt'`);
  });
  it("names the next terminal", () => {
    expect(nextSession(["main"])).toBe("t2");
    expect(nextSession(["main", "t2", "t4"])).toBe("t3");
  });
  it("reads psql's rows", () => {
    expect(rows("public.a\t2\t8192 bytes\nb.c\t~5\t1 MB\n\n")).toEqual([
      { name: "a", rows: "2", size: "8192 bytes" },
      { name: "b.c", rows: "~5", size: "1 MB" },
    ]);
  });
  it("counts processors between samples, and starts anew with a sandbox", () => {
    const at = (at: number, cpu: number) => ({ at, cpu, memory: 0 });
    expect(shares([at(0, 0), at(1000, 500_000), at(2000, 100)])).toEqual([0.5, 0]);
    expect(points([0, 1], 1, 10, 10, 2)).toBe("0.0,9.0 10.0,1.0");
  });
  it("says times and sizes in one unit", () => {
    const now = Date.parse("2026-01-01T00:10:00Z");
    expect(ago("2026-01-01T00:00:00Z", now)).toBe("10 min ago");
    expect(took(65_000)).toBe("1 min 5 s");
    expect(took(420)).toBe("420 ms");
    expect([bytes(512), bytes(1536), bytes(200 * 1024 ** 2)]).toEqual(["512 B", "1.5 KiB", "200 MiB"]);
  });
  it("names a browser", () => {
    expect(browser("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/130.0 Safari/537.36")).toBe("Chrome on Linux");
    expect(browser("")).toBe("Unknown");
  });
});

describe("limits", () => {
  it("are whole numbers, and nothing where there is none", () => {
    expect(limitsOf({ projects: "3", running: " 0 ", cpuMillis: "", memoryMib: "" })).toMatchObject({ projects: 3, running: 0, cpuMillis: null, memoryMib: null, diskMib: null });
    for (const wrong of ["-1", "1.5", "many", "1e999"]) expect(limitsOf({ projects: wrong })).toBeUndefined();
  });
  it("stand beside what is used", () => {
    expect([usedOf(2, 5), usedOf(2, null), usedOf(512, 1024, " MiB")]).toEqual(["2 of 5", "2", "512 of 1024 MiB"]);
  });
});

describe("a role", () => {
  it("may what those before it may", () => {
    expect([may("viewer", "viewer"), may("viewer", "editor"), may("admin", "editor"), may("admin", "owner")]).toEqual([true, false, true, false]);
  });
  it("leaves a name to one's own project, and names another by its id", () => {
    const mine = { id: "1", name: "shop", role: "owner" } as const;
    const theirs = { id: "2", name: "shop", role: "editor" } as const;
    const alone = { id: "3", name: "blog", role: "viewer" } as const;
    expect([mine, theirs, alone].map((one) => addressed(one, [mine, theirs, alone]))).toEqual(["shop", "2", "blog"]);
  });
});

describe("a chart", () => {
  it("is a line to see from its first sample on, down to the ground", () => {
    expect(started([], 3)).toEqual([]);
    expect(started([4], 3)).toEqual([4, 4, 4]);
    expect(started([1, 2, 3, 4], 3)).toEqual([1, 2, 3, 4]);
    expect(area([], 1, 10, 10, 3)).toBe("");
    expect(area([1, 1], 1, 10, 10, 3)).toBe("5.0,10 5.0,1.0 10.0,1.0 10.0,10");
  });
});
