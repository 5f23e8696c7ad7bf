// Build of the page: hashed file names, and a .br and .gz variant of each text file, so that the server never
// compresses.
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";
import react from "@vitejs/plugin-react";
import { defineConfig, type Plugin } from "vite";

/** Smaller files are not compressed: the variant would not be worth a lookup. */
const minCompressedSize = 512;

function compress(): Plugin {
  return {
    name: "compress",
    apply: "build",
    closeBundle() {
      for (const entry of readdirSync("dist", { recursive: true, withFileTypes: true })) {
        if (!entry.isFile() || !/\.(js|css|html|svg)$/.test(entry.name)) continue;
        const path = join(entry.parentPath, entry.name);
        const bytes = readFileSync(path);
        if (bytes.length < minCompressedSize) continue;
        const params = { [constants.BROTLI_PARAM_SIZE_HINT]: bytes.length };
        writeFileSync(`${path}.br`, brotliCompressSync(bytes, { params }));
        writeFileSync(`${path}.gz`, gzipSync(bytes, { level: 9 }));
      }
    },
  };
}

export default defineConfig({
  plugins: [react(), compress()],
  // No data: URLs, which the Content-Security-Policy would have to allow.
  build: { assetsInlineLimit: 0, modulePreload: { polyfill: false }, target: "es2023" },
  // The development server forwards API requests to `fsa serve` on its default address.
  server: { proxy: { "/api": { target: "http://127.0.0.1:8080", ws: true } } },
});
