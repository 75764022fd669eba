// The pages: /admin (panel.html) and /talk (talk.html), with hashed assets under /ui/assets.
import { existsSync, readdirSync, rmSync } from "node:fs";
import { basename, join } from "node:path";
import { defineConfig, type Plugin } from "vite";

const all = ["panel", "talk"];
/** `PAGES=talk npx vite build` builds that one alone. */
const pages = (process.env.PAGES?.split(",") ?? all).filter((name) => existsSync(join(import.meta.dirname, `${name}.html`)));

/** Removes what former builds left under assets/; the files of vite.client.config.ts beside it stay. */
function withoutOldAssets(): Plugin {
  return {
    name: "without-old-assets",
    writeBundle({ dir }, bundle) {
      const folder = join(dir ?? "", "assets");
      const made = new Set(Object.keys(bundle).map((name) => basename(name)));
      if (pages.length < all.length) return;
      for (const name of existsSync(folder) ? readdirSync(folder) : []) {
        if (!made.has(name)) rmSync(join(folder, name));
      }
    },
  };
}

export default defineConfig({
  base: "/ui/",
  publicDir: false,
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  plugins: [withoutOldAssets()],
  build: {
    outDir: "../rejoinder_admin/web",
    emptyOutDir: false,
    target: "es2022",
    // data: URLs are kept out by the Content-Security-Policy.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    rollupOptions: { input: Object.fromEntries(pages.map((name) => [name, `${name}.html`])) },
  },
});
