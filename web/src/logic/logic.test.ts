// Tests of the small pure functions.
import { describe, expect, it } from "vitest";
import type { Project } from "../api/client";
import { stripAnsi } from "./ansi";
import { areaPoints, cpuUsage, padStart, polylinePoints } from "./chart";
import { copiedText } from "./copySequence";
import { parseDotenv } from "./dotenv";
import { canEmbed } from "./embed";
import { fuzzyFilter } from "./fuzzy";
import { fileExtension, hasLanguage } from "./language";
import { formatUsage, parseLimits } from "./limits";
import { nameProblem, suggestName } from "./name";
import { joinPath, parentPath } from "./path";
import { previewPath } from "./previewPath";
import { filterAndSort } from "./projectList";
import { hasRole, projectSlug } from "./role";
import { shellQuote } from "./shellQuote";
import { stageDurations } from "./stages";
import { parseTables } from "./tables";
import { nextTerminalName } from "./terminalName";
import { formatBytes, formatDuration, timeAgo } from "./time";
import { describeUserAgent } from "./userAgent";

describe("a project name", () => {
  it("is validated by the rule of the server", () => {
    for (const name of ["a", "my-app", "a1", "x".repeat(40)]) expect(nameProblem(name)).toBeUndefined();
    for (const name of ["", "1a", "-a", "a-", "a--b", "A", "a_b", "ä", "x".repeat(41)]) expect(nameProblem(name)).toBeTruthy();
  });
  it("gets a suggestion that is valid", () => {
    expect(suggestName("My App!")).toBe("my-app");
    expect(suggestName("--9 Lives--")).toBe("lives");
    expect(nameProblem(suggestName(`${"long ".repeat(20)}`))).toBeUndefined();
  });
});

describe("a pasted .env", () => {
  it("may have comments, exports and quotes", () => {
    const { variables, problems } = parseDotenv(
      "# first\nA=1\nexport B = two # why\nC='a # b'\nD=\"line\\nnext \\\"x\\\"\"\nE=\nF=a=b\r\nG='raw\\n'",
    );
    expect(problems).toEqual([]);
    expect(variables).toEqual({ A: "1", B: "two", C: "a # b", D: 'line\nnext "x"', E: "", F: "a=b", G: "raw\\n" });
  });
  it("may have a value of several lines, such as a key", () => {
    expect(parseDotenv('KEY="-----BEGIN\nabc\n-----END"\nX=1').variables).toEqual({ KEY: "-----BEGIN\nabc\n-----END", X: "1" });
  });
  it("reports invalid lines by number", () => {
    expect(parseDotenv("A=1\nnonsense\n2B=x\nC='open").problems.map(({ line }) => line)).toEqual([2, 3, 4]);
  });
});

describe("stages", () => {
  const stage = (state: string, since: string) => ({ stage: "Ready", title: "", state, since }) as Parameters<typeof stageDurations>[0][number];
  it("take the time between their ends, and the first two run in parallel", () => {
    const at = (second: number) => `2026-01-01T00:00:0${second}Z`;
    const durations = stageDurations(
      [stage("done", at(1)), stage("done", at(3)), stage("done", at(4)), stage("active", at(4)), stage("pending", at(0))],
      at(0),
      Date.parse(at(6)),
    );
    expect(durations).toEqual([1000, 3000, 1000, 2000, undefined]);
    // On a cluster the network is ready while the first two are still active.
    const early = stageDurations([stage("active", at(0)), stage("active", at(1)), stage("done", at(2)), stage("pending", at(0))], at(0), Date.parse(at(6)));
    expect(early).toEqual([6000, 5000, 2000, undefined]);
  });
});

describe("the list of projects", () => {
  const project = (name: string, status: string, updatedAt: string) => ({ name, updatedAt, sandbox: { status } }) as Project;
  const all = [project("beta", "RUNNING", "2026-01-02"), project("alpha", "STOPPED", "2026-01-03"), project("gamma", "ERROR", "2026-01-01")];
  const names = (found: Project[]) => found.map(({ name }) => name);
  it("is sorted in three ways and filtered", () => {
    expect(names(filterAndSort(all, "", "name"))).toEqual(["alpha", "beta", "gamma"]);
    expect(names(filterAndSort(all, "", "changed"))).toEqual(["alpha", "beta", "gamma"]);
    expect(names(filterAndSort(all, "", "status"))).toEqual(["gamma", "beta", "alpha"]);
    expect(names(filterAndSort(all, "amm", "name"))).toEqual(["gamma"]);
    expect(names(all)).toEqual(["beta", "alpha", "gamma"]);
  });
});

describe("small functions", () => {
  it("match commands by a few letters, the best match first", () => {
    expect(fuzzyFilter(["Stop sandbox", "my-stop", "start"], "sto", (x) => x)).toEqual(["Stop sandbox", "my-stop"]);
    expect(fuzzyFilter(["environment"], "evn", (x) => x)).toEqual(["environment"]);
    expect(fuzzyFilter(["a"], "z", (x) => x)).toEqual([]);
  });
  it("reduce an address to its path", () => {
    expect(previewPath("about?x=1#y")).toBe("/about?x=1#y");
    expect(previewPath("http://other:1/a")).toBe("/a");
    expect(previewPath("https://other")).toBe("/");
  });
  it("embed a private preview only where the browser sends its cookie", () => {
    expect(canEmbed("http://localhost:8080/p/x", "http://x--3000.localhost:8080/", "private")).toBe(true);
    expect(canEmbed("https://fsa.example/", "https://x--3000.apps.example/", "link")).toBe(true);
    expect(canEmbed("http://fsa.lan/", "http://x--3000.fsa.lan/", "private")).toBe(true);
    expect(canEmbed("http://10.0.0.5/", "http://x--3000.apps.lan/", "private")).toBe(false);
    expect(canEmbed("http://10.0.0.5/", "http://x--3000.apps.lan/", "public")).toBe(true);
  });
  it("strip control sequences from logs", () => {
    expect(stripAnsi("\x1b[1;31mred\x1b[0m \x1b]0;title\x07x\ty\r")).toBe("red x\ty");
  });
  it("join paths in the project folder and outside", () => {
    expect(joinPath(".", "a")).toBe("a");
    expect(joinPath("a", "b")).toBe("a/b");
    expect([parentPath("a"), parentPath("a/b"), parentPath("/a")]).toEqual([".", "a", "/"]);
  });
  it("select a language by file extension", () => {
    expect(fileExtension("a/b.C.TS")).toBe("ts");
    expect([hasLanguage("x.tsx"), hasLanguage("Makefile"), hasLanguage("x.constructor")]).toEqual([true, false, false]);
  });
  it("quote a file name for the shell", () => {
    expect(shellQuote("a.txt")).toBe("a.txt");
    expect(shellQuote("it's $(x).txt")).toBe(`'it'\\''s $(x).txt'`);
  });
  it("name the next terminal", () => {
    expect(nextTerminalName(["main"])).toBe("t2");
    expect(nextTerminalName(["main", "t2", "t4"])).toBe("t3");
  });
  it("parse the rows of psql", () => {
    expect(parseTables("public.a\t2\t8192 bytes\nb.c\t~5\t1 MB\n\n")).toEqual([
      { name: "a", rows: "2", size: "8192 bytes" },
      { name: "b.c", rows: "~5", size: "1 MB" },
    ]);
  });
  it("compute CPU usage between samples, and start over when the sandbox restarts", () => {
    const at = (at: number, cpu: number) => ({ at, cpu, memory: 0 });
    expect(cpuUsage([at(0, 0), at(1000, 500_000), at(2000, 100)])).toEqual([0.5, 0]);
    expect(polylinePoints([0, 1], 1, 10, 10, 2)).toBe("0.0,9.0 10.0,1.0");
  });
  it("format times and sizes in one unit", () => {
    const now = Date.parse("2026-01-01T00:10:00Z");
    expect(timeAgo("2026-01-01T00:00:00Z", now)).toBe("10 min ago");
    expect(formatDuration(65_000)).toBe("1 min 5 s");
    expect(formatDuration(420)).toBe("420 ms");
    expect([formatBytes(512), formatBytes(1536), formatBytes(200 * 1024 ** 2)]).toEqual(["512 B", "1.5 KiB", "200 MiB"]);
  });
  it("describe a browser", () => {
    expect(describeUserAgent("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/130.0 Safari/537.36")).toBe("Chrome on Linux");
    expect(describeUserAgent("")).toBe("Unknown");
  });
});

describe("limits", () => {
  it("are whole numbers, or null for no limit", () => {
    expect(parseLimits({ projects: "3", running: " 0 ", cpuMillis: "", memoryMib: "" })).toMatchObject({ projects: 3, running: 0, cpuMillis: null, memoryMib: null, diskMib: null });
    for (const invalid of ["-1", "1.5", "many", "1e999"]) expect(parseLimits({ projects: invalid })).toBeUndefined();
  });
  it("are shown beside the usage", () => {
    expect([formatUsage(2, 5), formatUsage(2, null), formatUsage(512, 1024, " MiB")]).toEqual(["2 of 5", "2", "512 of 1024 MiB"]);
  });
});

describe("a role", () => {
  it("includes the permissions of lower roles", () => {
    expect([hasRole("viewer", "viewer"), hasRole("viewer", "editor"), hasRole("admin", "editor"), hasRole("admin", "owner")]).toEqual([true, false, true, false]);
  });
  it("uses the name for the user's own project, and the id for another of the same name", () => {
    const mine = { id: "1", name: "shop", role: "owner" } as const;
    const theirs = { id: "2", name: "shop", role: "editor" } as const;
    const alone = { id: "3", name: "blog", role: "viewer" } as const;
    expect([mine, theirs, alone].map((one) => projectSlug(one, [mine, theirs, alone]))).toEqual(["shop", "2", "blog"]);
  });
});

describe("a chart", () => {
  it("is a visible line from its first sample on, with an area down to the bottom", () => {
    expect(padStart([], 3)).toEqual([]);
    expect(padStart([4], 3)).toEqual([4, 4, 4]);
    expect(padStart([1, 2, 3, 4], 3)).toEqual([1, 2, 3, 4]);
    expect(areaPoints([], 1, 10, 10, 3)).toBe("");
    expect(areaPoints([1, 1], 1, 10, 10, 3)).toBe("5.0,10 5.0,1.0 10.0,1.0 10.0,10");
  });
});

describe("a copy by a program in the terminal", () => {
  it("has a text, and is never a query", () => {
    const encode = (text: string) => Buffer.from(text).toString("base64");
    expect(copiedText(`c;${encode("hi")}`)).toBe("hi");
    expect(copiedText(`;${encode("naïve 👍\n")}`)).toBe("naïve 👍\n");
    for (const data of ["c;?", "c;", "c;!", "", "c;aGk=;x", "x;aGk=", "c;a"]) expect(copiedText(data), data).toBeUndefined();
  });
});
