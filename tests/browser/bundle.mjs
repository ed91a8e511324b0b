// The npm packages that pages of the tests import, each as one ES module beside the others' shared chunks.
import { mkdir, writeFile } from "node:fs/promises";
import { build } from "esbuild";

const PACKAGES = ["@google/genai", "@openai/agents-realtime", "react", "react-dom/client"];
const [, , outdir] = process.argv;

// CommonJS has no named exports that a bundler could see.
async function entry(name) {
  const names = Object.keys(await import(name)).filter((each) => /^[A-Za-z_]\w*$/.test(each) && each !== "default");
  return name.startsWith("react")
    ? `import * as all from "${name}"; export const { ${names.join(", ")} } = all; export default all;`
    : `export * from "${name}";`;
}

const sources = new URL("node_modules/.entries/", import.meta.url);
await mkdir(sources, { recursive: true });
const entries = {};
for (const name of PACKAGES) {
  const file = new URL(`${name.replaceAll(/\W+/g, "-").replace(/^-/, "")}.mjs`, sources);
  await writeFile(file, await entry(name));
  entries[file.pathname.split("/").at(-1).replace(".mjs", "")] = file.pathname;
}
await build({
  entryPoints: entries,
  outdir,
  bundle: true,
  splitting: true, // one React for all of them
  format: "esm",
  platform: "browser",
  conditions: ["browser"],
  define: { "process.env.NODE_ENV": '"development"' }, // StrictMode mounts twice in development only
  logLevel: "warning",
});
