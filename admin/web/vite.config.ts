// The pages: /admin (panel.html) and /talk (talk.html), with hashed assets under /ui/assets.
import { defineConfig } from "vite";

export default defineConfig({
  base: "/ui/",
  publicDir: false,
  esbuild: { jsx: "automatic", jsxImportSource: "preact" },
  build: {
    outDir: "../rejoinder_admin/web",
    emptyOutDir: true,
    target: "es2022",
    // data: URLs are kept out by the Content-Security-Policy.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    rollupOptions: { input: { panel: "panel.html", talk: "talk.html" } },
  },
});
