// How the page is built: hashed names, and each text file compressed beside itself, so that the
// server never compresses anything.
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";
import react from "@vitejs/plugin-react";
import { defineConfig, type Plugin } from "vite";

/** Below this many bytes a variant saves nothing worth a lookup. */
const worthwhile = 512;

function compressed(): Plugin {
  return {
    name: "compressed",
    apply: "build",
    closeBundle() {
      for (const entry of readdirSync("dist", { recursive: true, withFileTypes: true })) {
        if (!entry.isFile() || !/\.(js|css|html|svg)$/.test(entry.name)) continue;
        const path = join(entry.parentPath, entry.name);
        const bytes = readFileSync(path);
        if (bytes.length < worthwhile) continue;
        const params = { [constants.BROTLI_PARAM_SIZE_HINT]: bytes.length };
        writeFileSync(`${path}.br`, brotliCompressSync(bytes, { params }));
        writeFileSync(`${path}.gz`, gzipSync(bytes, { level: 9 }));
      }
    },
  };
}

export default defineConfig({
  plugins: [react(), compressed()],
  // A data: URL would need a policy that allows it; small files are files too.
  build: { assetsInlineLimit: 0, modulePreload: { polyfill: false }, target: "es2023" },
  // A server to develop against: `fsa serve` on its default address.
  server: { proxy: { "/api": { target: "http://127.0.0.1:8080", ws: true } } },
});
