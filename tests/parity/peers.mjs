/** Where agents live: a process that speaks JSON lines, or a page of a real browser. */
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import puppeteer from 'puppeteer-core';
import { launchWebKit } from '../browser/webkit.mjs';
import { createAgent } from './agent.mjs';

const CALL_DEADLINE = 120_000;

const IN_NODE = [
  { transport: 'websocket', encoding: 'json' },
  { transport: 'websocket', encoding: 'bin' },
  { transport: 'sse' },
  { transport: 'poll', wait: 20, label: 'long-poll' },
  { transport: 'poll', wait: 0, interval: 10, label: 'poll' },
];
const IN_PYTHON = [
  { transport: 'webtransport' },
  { transport: 'websocket', encoding: 'json', http: '1.1' },
  { transport: 'websocket', encoding: 'json', http: '2' },
  { transport: 'websocket', encoding: 'bin', http: '2' },
  { transport: 'sse', http: '1.1' },
  { transport: 'sse', http: '2' },
  { transport: 'sse', http: '3' },
  { transport: 'poll', wait: 20, http: '3' },
];
/** The client speaks JSON over WebSocket only where a test translates it. */
const IN_WEBKIT = IN_NODE.filter(({ label, encoding }) => label !== 'poll' && encoding !== 'json');
const IN_BROWSERS = [{ transport: 'webtransport' }, ...IN_WEBKIT];

export function labelOf({ transport, encoding, label, http }) {
  return label ?? [transport, encoding, http && `over HTTP/${http}`].filter(Boolean).join(' ');
}

class Peer {
  #ids = 0;

  /** @param {string} name @param {object[]} transports @param {string} base */
  constructor(name, transports, base) {
    this.name = name;
    this.transports = transports;
    this.base = base;
  }

  /** A new id for a connection. */
  id() {
    return `c${++this.#ids}`;
  }

  /** Answers with the `ok` of the agent, or throws its error. */
  async call(op, members) {
    let timer;
    const what = `${this.name}: ${op} ${JSON.stringify(members).slice(0, 200)}`;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error(`no answer within ${CALL_DEADLINE} ms to ${what}`)), CALL_DEADLINE);
    });
    const answer = await Promise.race([this.send({ op, ...members }), late]).finally(() => clearTimeout(timer));
    if (answer.error) throw Object.assign(new Error(`${what}: ${answer.error.code}: ${answer.error.message}`), { code: answer.error.code });
    return answer.ok;
  }

  all(ops) {
    return this.call('all', { ops });
  }

  /** Opens a connection over one of `transports`; its id. */
  async open(transport, members = {}) {
    const id = this.id();
    const { label, ...how } = transport;
    await this.call('open', { id, base: this.base, ...how, ...members });
    return id;
  }
}

export class LinesPeer extends Peer {
  #process;
  #waiting = new Map();
  #n = 0;
  #failure = null;

  /** Another agent is another command line that speaks the same. */
  constructor(base, name = 'node', command = [process.execPath, fileURLToPath(new URL('lines.mjs', import.meta.url))], transports = IN_NODE) {
    super(name, transports, base);
    this.#process = spawn(command[0], command.slice(1), { stdio: ['pipe', 'pipe', 'inherit'] });
    this.ended = new Promise((resolve) => {
      this.#process.once('exit', (code, signal) => resolve(code ?? signal));
      this.#process.once('error', resolve);
    });
    this.ended.then((code) => {
      this.#failure = new Error(`the agent ${name} ended with ${code}`);
      for (const { reject } of this.#waiting.values()) reject(this.#failure);
    });
    createInterface({ input: this.#process.stdout }).on('line', (line) => {
      const { n, answer } = JSON.parse(line);
      this.#waiting.get(n).resolve(answer);
      this.#waiting.delete(n);
    });
  }

  send(request) {
    if (this.#failure) return Promise.reject(this.#failure);
    return new Promise((resolve, reject) => {
      const n = ++this.#n;
      this.#waiting.set(n, { resolve, reject });
      this.#process.stdin.write(`${JSON.stringify({ n, request })}\n`);
    });
  }

  async stop() {
    this.#process.stdin.end();
    await this.ended;
  }
}

class BrowserPeer extends Peer {
  constructor(name, transports, base, browser, page) {
    super(name, transports, base);
    this.browser = browser;
    this.page = page;
  }

  send(request) {
    // As text: the two ways to drive a browser do not carry every JSON value alike.
    return this.page.evaluate((text) => window.agent(text), JSON.stringify(request)).then(JSON.parse);
  }

  async stop() {
    await this.browser.close();
  }
}

const PYTHON = process.env.FULMAR_PYTHON ?? fileURLToPath(new URL('../../target/test-env/bin/python', import.meta.url));
const TARGET = process.env.CARGO_TARGET_DIR ?? fileURLToPath(new URL('../../target', import.meta.url));
const RUST_AGENT = process.env.FULMAR_AGENT ?? `${TARGET}/debug/examples/agent`;
/** Agents that are processes, by the name of their peer. */
const LINES = {
  node: (base) => new LinesPeer(base),
  rust: (base) => new LinesPeer(base, 'rust', [RUST_AGENT], [{ transport: 'webtransport' }]),
  python: (base) => new LinesPeer(base, 'python', [PYTHON, '-B', fileURLToPath(new URL('python/agent.py', import.meta.url))], IN_PYTHON),
};

export const BROWSERS = {
  chromium: {
    browser: 'chrome',
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: ['--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
  },
  firefox: {
    browser: 'firefox',
    executablePath: process.env.FIREFOX ?? '/usr/bin/firefox-esr',
  },
};

async function openBrowser(name, base) {
  const browser = name === 'webkit' ? await launchWebKit() : await puppeteer.launch({ headless: true, ...BROWSERS[name], protocolTimeout: CALL_DEADLINE });
  try {
    const page = await browser.newPage();
    // A page of the server's own origin that opens no connection by itself.
    await page.goto(`${base}/healthz`);
    await page.evaluate(`(async () => {
      const handle = (${createAgent})(await import('/client/fulmar.js'));
      window.agent = async (text) => JSON.stringify(await handle(JSON.parse(text)));
    })()`);
    return new BrowserPeer(name, name === 'webkit' ? IN_WEBKIT : IN_BROWSERS, base, browser, page);
  } catch (error) {
    await browser.close();
    throw error;
  }
}

/** Processes and browsers; FULMAR_PEERS=node,chromium names fewer while working on a test. */
export async function startPeers(base) {
  const wanted = (process.env.FULMAR_PEERS ?? 'node,rust,python,chromium,firefox,webkit').split(',');
  const peers = [];
  try {
    for (const name of wanted) peers.push(LINES[name]?.(base) ?? (await openBrowser(name, base)));
  } catch (error) {
    await stopPeers(peers);
    throw error;
  }
  return peers;
}

export async function stopPeers(peers) {
  await Promise.all(peers.map((peer) => peer.stop()));
}
