// The browser client as one file, served as /client.js and published as a package.
import { defineConfig } from "vite";

export default defineConfig({
  publicDir: false,
  build: {
    outDir: "../rejoinder_admin/web",
    emptyOutDir: false,
    target: "es2022",
    lib: { entry: "client/src/index.ts", formats: ["es"], fileName: () => "client.js" },
  },
});
