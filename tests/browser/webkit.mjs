/**
 * WebKitGTK, which has Safari's engine: no WebTransport, and a network stack of its own. It is driven by WebDriver, and
 * its windows are on a display that nobody sees. A browser here has as much of puppeteer's as the tests use. Commands to
 * pages of one context are given one after another.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';

const DISPLAY = 'Xvfb';
const DRIVER = 'WebKitWebDriver';
/** For the display and the driver to be there, for a page to come, and for a script in it, in ms. */
const START_DEADLINE = 15_000, PAGE_DEADLINE = 30_000, SCRIPT_DEADLINE = 120_000;
const OPTIONS = 'webkitgtk:browserOptions';
const BINARY = process.env.WEBKIT ?? '/usr/lib/x86_64-linux-gnu/webkit2gtk-4.1/MiniBrowser';

/** Processes that go with this one, however it ends. @type {Set<import('node:child_process').ChildProcess>} */
const helpers = new Set();
const endHelpers = () => { for (const child of helpers) child.kill(); };
process.once('exit', endHelpers);
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  process.once(signal, () => {
    endHelpers();
    // As it would have without this.
    process.kill(process.pid, signal);
  });
}

function helper(command, args, options) {
  const child = spawn(command, args, options);
  helpers.add(child);
  const ended = new Promise((resolve) => {
    child.once('exit', resolve);
    child.once('error', resolve);
  }).finally(() => helpers.delete(child));
  return { child, ended, stop: () => (child.kill(), ended) };
}

/** What has come of a promise by then, or an error. */
async function inTime(what, promise, ended) {
  const ending = new AbortController();
  const late = delay(START_DEADLINE, null, { signal: ending.signal }).then(() => { throw new Error(`${what}: not within ${START_DEADLINE} ms`); });
  const gone = ended.then((code) => { throw new Error(`${what} ended with ${code}`); });
  return Promise.race([promise, late, gone]).finally(() => {
    ending.abort();
    for (const each of [late, gone]) each.catch(() => {});
  });
}

async function freePort() {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

/** One session of WebDriver, whose commands wait for each other. */
class Session {
  #last = Promise.resolve();

  constructor(driver) {
    this.driver = driver;
  }

  async ask(method, path, body) {
    const response = await fetch(this.driver + path, { method, body: body && JSON.stringify(body) });
    const { value } = await response.json();
    if (!response.ok) throw new Error(`${method} ${path}: ${value.error} ${value.message}`);
    return value;
  }

  /** @param {(ask: (method: string, path: string, body?: object) => Promise<any>) => Promise<any>} run alone, in a window */
  inWindow(handle, run) {
    const ask = (method, path, body) => this.ask(method, `/session/${this.id}${path}`, body);
    const result = this.#last.then(async () => {
      await ask('POST', '/window', { handle });
      return run(ask);
    });
    this.#last = result.catch(() => {});
    return result;
  }
}

class Page {
  constructor(session, handle) {
    this.session = session;
    this.handle = handle;
  }

  goto(url) {
    return this.session.inWindow(this.handle, (ask) => ask('POST', '/url', { url }));
  }

  /** @param {Function | string} what is called in the page, or is an expression there @param {unknown[]} args as JSON has them */
  async evaluate(what, ...args) {
    const expression = typeof what === 'function' ? `(${what})(...given)` : what;
    const script = `const [args, done] = arguments, given = JSON.parse(args);
      (async () => ${expression})().then((ok) => done(JSON.stringify({ ok })), (error) => done(JSON.stringify({ error: String(error) })));`;
    const body = { script, args: [JSON.stringify(args)] };
    const text = await this.session.inWindow(this.handle, (ask) => ask('POST', '/execute/async', body));
    const { ok, error } = JSON.parse(text);
    if (error !== undefined) throw new Error(error);
    return ok;
  }

  close() {
    return this.session.inWindow(this.handle, (ask) => ask('DELETE', '/window'));
  }
}

/** A browser of its own: what it keeps is gone with it. */
async function openSession(display, args) {
  const port = await freePort();
  const folder = await mkdtemp(join(tmpdir(), 'fulmar-webkit-'));
  const kept = Object.fromEntries(['HOME', 'XDG_RUNTIME_DIR', 'XDG_DATA_HOME', 'XDG_CACHE_HOME', 'XDG_CONFIG_HOME'].map((name) => [name, folder]));
  const env = { ...process.env, ...kept, DISPLAY: display, NO_AT_BRIDGE: '1', GSETTINGS_BACKEND: 'memory' };
  const driver = helper(DRIVER, [`--port=${port}`], { env, stdio: 'ignore' });
  const stop = () => driver.stop().then(() => rm(folder, { recursive: true, force: true, maxRetries: 5 }));
  const session = new Session(`http://127.0.0.1:${port}`);
  const listening = async () => {
    while (helpers.has(driver.child) && !(await session.ask('GET', '/status').catch(() => null))) await delay(20);
  };
  try {
    await inTime(DRIVER, listening(), driver.ended);
    const alwaysMatch = {
      timeouts: { pageLoad: PAGE_DEADLINE, script: SCRIPT_DEADLINE },
      [OPTIONS]: { binary: BINARY, args: ['--automation', ...args] },
    };
    const { sessionId } = await inTime('a session', session.ask('POST', '/session', { capabilities: { alwaysMatch } }), driver.ended);
    session.id = sessionId;
    const first = await session.ask('GET', `/session/${sessionId}/window`);
    return {
      async newPage() {
        const { handle } = await session.inWindow(first, (ask) => ask('POST', '/window/new', { type: 'tab' }));
        return new Page(session, handle);
      },
      close: () => session.ask('DELETE', `/session/${sessionId}`).finally(stop),
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

/** @param {string[]} [args] for the browser */
export async function launchWebKit(args = []) {
  const display = helper(DISPLAY, ['-displayfd', '3', '-nolisten', 'tcp', '-screen', '0', '800x600x24'], { stdio: ['ignore', 'ignore', 'ignore', 'pipe'] });
  const sessions = [];
  const open = () => {
    const opened = number.then((number) => openSession(`:${number}`, args));
    sessions.push(opened);
    return opened;
  };
  const number = inTime(DISPLAY, once(createInterface({ input: display.child.stdio[3] }), 'line'), display.ended).then(([line]) => line);
  const close = async () => {
    await Promise.allSettled(sessions.map(async (session) => (await session).close()));
    await display.stop();
  };
  try {
    await number;
  } catch (error) {
    await close();
    throw error;
  }
  let own;
  return {
    newPage: async () => (await (own ??= open())).newPage(),
    async createBrowserContext() {
      const session = open();
      const { newPage, close } = await session;
      return { newPage, close: () => close().finally(() => sessions.splice(sessions.indexOf(session), 1)) };
    },
    close,
  };
}
