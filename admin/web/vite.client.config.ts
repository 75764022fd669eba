// The browser client, one file each: /client.js and, with --mode worklets, /client-worklets.js. Also what npm publishes.
import { defineConfig } from "vite";

export default defineConfig(({ mode }) => {
  const [name, entry] = mode === "worklets" ? ["client-worklets", "worklets"] : ["client", "index"];
  return {
    publicDir: false,
    build: {
      outDir: "../rejoinder_admin/web",
      emptyOutDir: false,
      target: "es2022",
      modulePreload: false,
      rollupOptions: {
        input: { [name]: `client/src/${entry}.ts` },
        preserveEntrySignatures: "strict",
        output: { format: "es", entryFileNames: "[name].js", codeSplitting: false },
      },
    },
  };
});
