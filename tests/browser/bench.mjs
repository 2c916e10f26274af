/**
 * The figures of the client in browsers.
 *
 *     node tests/browser/bench.mjs [--browsers chromium,firefox] [--only updates,first,size] [--seconds 10] [--rounds 10] [--rtt 40]
 *
 * `first` is measured in network namespaces and wants root, ip, ethtool, nft and chrt. FULMAR_BIN names the server, which
 * should be a release build.
 */
import { existsSync } from 'node:fs';
import { cpus, loadavg } from 'node:os';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const { values } = parseArgs({ options: {
  browsers: { type: 'string', default: 'chromium,firefox' },
  only: { type: 'string', default: 'updates,first,size' },
  seconds: { type: 'string', default: '10' },
  rounds: { type: 'string', default: '10' },
  rtt: { type: 'string', default: '40' },
} });
const browsers = values.browsers.split(',');
const only = values.only.split(',');

// Before the modules of the tests look for it, which take a debug build where nothing is said.
process.env.FULMAR_BIN ??= fileURLToPath(new URL('../../target/release/fulmar', import.meta.url));
const binary = process.env.FULMAR_BIN;
if (only.some((it) => it !== 'size') && !existsSync(binary)) {
  console.error(`There is no ${binary}: build it with cargo build --release, or name one in FULMAR_BIN.`);
  process.exit(2);
}

console.log(`${cpus().length} × ${cpus()[0]?.model.trim()}, load ${loadavg()[0].toFixed(1)}`);
if (only.includes('updates')) {
  const { measureUpdates } = await import('./bench/updates.mjs');
  await measureUpdates({ browsers, seconds: Number(values.seconds) });
}
if (only.includes('first')) {
  const { measureFirst } = await import('./bench/first.mjs');
  await measureFirst({ binary, browsers, rounds: Number(values.rounds), rtt: Number(values.rtt) });
}
if (only.includes('size')) {
  const { printSizes } = await import('../js/size.mjs');
  console.log('\nSize of the client');
  await printSizes();
}
console.log(`\nload at the end ${loadavg()[0].toFixed(1)}`);
