/** Real browsers with fresh profiles, and what tests in them wait by. */
import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import puppeteer from 'puppeteer-core';
import { BROWSERS } from '../parity/peers.mjs';
import { launchWebKit } from './webkit.mjs';

const run = promisify(execFile);
const DEADLINE = 30_000;
/** More than any wait in a page. */
const PROTOCOL_DEADLINE = 120_000;

const isWanted = (name) => (process.env.FULMAR_PEERS ?? name).split(',').includes(name);
/** The browsers to test in: those that have WebTransport, or those of them that FULMAR_PEERS names. */
export const wanted = Object.keys(BROWSERS).filter(isWanted);
/** These, and Safari's engine, which has none here. */
export const engines = [...wanted, ...['webkit'].filter(isWanted)];
/** The best transport that each has. */
export const best = (name) => (name === 'webkit' ? 'websocket' : 'webtransport');

/** Waits for something that must come. */
export async function within(what, promise, deadline = DEADLINE) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: not within ${deadline} ms`)), deadline);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** Asks until the answer is a good one, which it must be in time. */
export async function until(what, ask, good, deadline = DEADLINE) {
  const end = performance.now() + deadline;
  for (;;) {
    const answer = await within(what, ask());
    if (good(answer)) return answer;
    if (performance.now() > end) throw new Error(`${what}: still ${JSON.stringify(answer)} after ${deadline} ms`);
  }
}

/**
 * @param {string} name @param {{root?: string, args?: string[], prefs?: Record<string, unknown>}} how `root`: a file with a
 * certificate in PEM that the browser trusts; `args` for Chromium and WebKit, `prefs` for Firefox
 */
export async function launch(name, { root, args = [], prefs = {} } = {}) {
  if (name === 'webkit') {
    const browser = await launchWebKit(args);
    return { browser, close: browser.close };
  }
  const folder = await mkdtemp(join(tmpdir(), `fulmar-${name}-`));
  // Chromium on Linux has its users' certificates in their home, Firefox in the profile.
  const database = name === 'chromium' ? join(folder, '.pki', 'nssdb') : folder;
  const known = BROWSERS[name];
  const own = name === 'chromium'
    ? { env: { ...process.env, HOME: folder }, args: [...known.args, ...args] }
    : { userDataDir: folder, extraPrefsFirefox: prefs };
  try {
    if (root) {
      await mkdir(database, { recursive: true });
      await run('certutil', ['-N', '-d', `sql:${database}`, '--empty-password']);
      await run('certutil', ['-A', '-d', `sql:${database}`, '-n', 'root of a test', '-t', 'C,,', '-i', root]);
    }
    const browser = await puppeteer.launch({ headless: true, ...known, ...own, protocolTimeout: PROTOCOL_DEADLINE });
    return { browser, close: () => browser.close().finally(() => rm(folder, { recursive: true, force: true })) };
  } catch (error) {
    await rm(folder, { recursive: true, force: true });
    throw error;
  }
}
