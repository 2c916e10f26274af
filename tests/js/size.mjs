/**
 * The size of the browser client, bundled and minified as an application's bundler does it.
 *
 *     node tests/js/size.mjs
 */
import { readFile, readdir } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { build } from 'esbuild';

const CLIENT = fileURLToPath(new URL('../../client/js', import.meta.url));

const gzipped = (bytes) => gzipSync(bytes, { level: 9 }).length;

/** What an application adds to its bundle by this code. @returns {Promise<{raw: number, gzip: number, text: string}>} */
export async function bundled(code, options = {}) {
  const { outputFiles } = await build({
    stdin: { contents: code, resolveDir: CLIENT },
    bundle: true, minify: true, write: false, format: 'esm', platform: 'browser', target: 'es2022', logLevel: 'error', ...options,
  });
  const [{ contents, text }] = outputFiles;
  return { raw: contents.length, gzip: gzipped(contents), text };
}

/** The modules as the server serves them, each gzipped on its own. @returns {Promise<{raw: number, gzip: number}>} */
export async function served() {
  const size = { raw: 0, gzip: 0 };
  for (const name of await readdir(CLIENT, { recursive: true })) {
    if (!name.endsWith('.js')) continue;
    const bytes = await readFile(`${CLIENT}/${name}`);
    size.raw += bytes.length;
    size.gzip += gzipped(bytes);
  }
  return size;
}

export const EVERYTHING = "export * from './fulmar.js'";
export const STATE_VIEW = "export { StateView } from './fulmar.js'";
export const TRANSPORTS = {
  webtransport: "export { openWebTransport } from './transports/webtransport.js'",
  websocket: "export { openWebSocket } from './transports/websocket.js'",
  sse: "export { openSse } from './transports/sse.js'",
  poll: "export { openPoll } from './transports/poll.js'",
};

export async function printSizes() {
  const rows = [['everything', await bundled(EVERYTHING)], ['StateView alone', await bundled(STATE_VIEW)]];
  for (const [name, code] of Object.entries(TRANSPORTS)) rows.push([`${name} alone`, await bundled(code)]);
  rows.push(['source as served', await served()]);
  console.log(`${''.padEnd(20)}${'bytes'.padStart(10)}${'gzipped'.padStart(10)}`);
  for (const [name, { raw, gzip }] of rows) {
    console.log(`${name.padEnd(20)}${String(raw).padStart(10)}${String(gzip).padStart(10)}`);
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await printSizes();
