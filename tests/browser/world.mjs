/** A server whose ports stay its own, who publishes on it, and pages with a client whose every event is counted. */
import { once } from 'node:events';
import http from 'node:http';
import { open } from '../../client/js/fulmar.js';
import { Server, channelIn } from '../parity/server.mjs';
import { QuietWebSocket } from '../parity/websocket.mjs';
import { within } from './browsers.mjs';
import { PUBLISHER, cut } from './namespace.mjs';

const EVERY_MS = 50;
const KEYS = 5;
/** Events that are published at once in a rush, and those that a history is sure to hold. */
const RUSH = 50, MOST = 9000;
/** For whatever has to come; more than any of it takes on a machine that is busy. */
const DEADLINE = 28_000;
/** For a hundred frames, each of which loads all modules of the client. */
const FRAMES_DEADLINE = 100_000;
/** For what a page has to say of a failure: one that has crashed says nothing. */
const REPORT_DEADLINE = 5000;
/** Failed requests that are told, of what may be thousands. */
const TOLD = 5;
/** How long the publisher's connection rests: the server ends one that rests for 10 s, and what is sent just then is lost. */
const REST_MS = 5000;

class FromPublisher extends QuietWebSocket {
  constructor(url, protocols) {
    super(url, protocols, { localAddress: PUBLISHER });
  }
}

/**
 * Numbers from 0, in the order of their publishing: each as an event, and as the value of a key of state. They come
 * from an address that is not cut off.
 */
class Feed {
  next = 0;
  channels = { event: channelIn('event'), state: channelIn('state') };
  #agent = new http.Agent({ keepAlive: true, maxSockets: 1, localAddress: PUBLISHER, timeout: REST_MS });
  /** @type {NodeJS.Timeout | undefined} */
  #timer;
  #running = Promise.resolve();
  /** The newest of each key. @type {Map<string, number>} */
  #values = new Map();

  constructor(base, every) {
    this.base = base;
    this.every = every;
  }

  async ask(path, body) {
    const { port } = new URL(this.base);
    const headers = body && { 'content-type': 'application/json' };
    const request = http.request({ host: '127.0.0.1', port, path, agent: this.#agent, method: body ? 'POST' : 'GET', headers });
    request.end(body && JSON.stringify(body));
    const [response] = await within(path, once(request, 'response'));
    const text = Buffer.concat(await response.toArray()).toString();
    if (response.statusCode !== 200) throw new Error(`${path}: ${response.statusCode} ${text}`);
    return JSON.parse(text);
  }

  async publish() {
    const data = this.next++;
    await this.ask('/api/publish', { channel: this.channels.event, data });
    const key = `k${data % KEYS}`;
    this.#values.set(key, data);
    await this.ask('/api/publish', { channel: this.channels.state, key, data });
  }

  start() {
    this.#timer = setInterval(() => {
      this.#running = this.#running.then(() => this.publish());
      this.#running.catch(() => clearInterval(this.#timer));
    }, this.every);
  }

  /** Publishes as fast as it can until something has come about: of events only. @param {Promise<unknown>} coming */
  rush(coming) {
    let rushing = true;
    const end = () => { rushing = false; };
    coming.then(end, end);
    this.#running = this.#running.then(async () => {
      const publisher = await open('websocket', { base: this.base, encoding: 'bin', WebSocket: FromPublisher });
      while (rushing && this.next < MOST) {
        const some = Array.from({ length: RUSH }, () => publisher.publish(this.channels.event, { data: this.next++ }));
        await within('a rush', Promise.all(some));
      }
      publisher.close();
    });
    return coming;
  }

  /** @returns {Promise<number>} the last number that was published */
  async stop() {
    clearInterval(this.#timer);
    await this.#running;
    return this.next - 1;
  }

  end() {
    clearInterval(this.#timer);
    this.#running.catch(() => {});
    this.#agent.destroy();
  }

  /** The server is another, and has none of it. */
  forget() {
    this.#values.clear();
  }

  /** What the state has to be in the end. */
  get state() {
    return Object.fromEntries([...this.#values].sort());
  }
}

/** What runs in the page, or in a worker. */
export function helpers() {
  window.begin = async (channels, options) => {
    const { connect } = await import(`${location.origin}/client/fulmar.js`);
    const began = performance.now();
    const client = (window.client = connect(location.origin, options));
    /** @type {Set<() => void>} */
    const looking = new Set();
    /** All that have come. */
    const numbers = new Set();
    const look = () => { for (const each of looking) each(); };
    const seen = (window.seen = { taken: false, first: null, last: null, count: 0, lost: 0, repeated: 0, disordered: 0, gaps: 0, told: 0, transports: [], errors: [], ends: [] });
    const subscription = client.subscribe(channels.event, {
      onPublication({ data }) {
        seen.first ??= data;
        seen.count++;
        if (numbers.has(data) || data < seen.first) seen.repeated++;
        else if (data < seen.last) {
          seen.disordered++;
          seen.lost--;
        } else {
          if (seen.last !== null) seen.lost += data - seen.last - 1;
          seen.last = data;
        }
        numbers.add(data);
        look();
      },
      onGap() {
        seen.gaps++;
        look();
      },
    });
    const state = client.state(channels.state);
    Promise.all([subscription.ready, state.ready]).then(() => {
      seen.taken = true;
      look();
    });
    state.onChange(() => {
      seen.told++;
      look();
    });
    for (const type of ['transport', 'status', 'error', 'close']) {
      client.addEventListener(type, ({ detail }) => {
        const at = Math.round(performance.now() - began);
        if (type === 'transport') seen.transports.push([detail, at]);
        if (type === 'error') seen.errors.push(`${at}: ${detail.code} ${detail.message}`);
        if (type === 'close') seen.ends.push(`${at}: ${detail.code} ${detail.reason}`);
        look();
      });
    }
    window.report = () => ({
      ...seen, state: Object.fromEntries([...state].sort()), status: client.status, transport: client.transport,
      moves: client.moves, reconnects: client.reconnects, now: Math.round(performance.now() - began), online: navigator.onLine,
      attempts: client.attempts.map(({ transport, outcome, ms, error }) => `${transport} ${outcome} ${Math.round(ms)} ${error?.message}`),
    });
    /** Waits until members of the report are these, or at least these where they are numbers. */
    window.reach = (wanted, deadline) => new Promise((resolve, reject) => {
      const met = () => {
        const report = window.report();
        return Object.entries(wanted).every(([name, value]) => {
          const is = report[name];
          return typeof value === 'number' ? is >= value : JSON.stringify(is) === JSON.stringify(value);
        });
      };
      const timer = setTimeout(() => {
        looking.delete(each);
        reject(new Error(`not within ${deadline} ms: ${JSON.stringify(wanted)}; it is ${JSON.stringify(window.report())}`));
      }, deadline);
      function each() {
        if (!met()) return;
        looking.delete(each);
        clearTimeout(timer);
        resolve(window.report());
      }
      looking.add(each);
      each();
    });
  };
}

/** One server, what is published on it, and one page that reads it. */
export class World {
  /**
   * @param {{host?: string, best?: string, every?: number, prepare?: (page) => Promise<unknown>}} [how] `best`: the
   * transport to begin with; `every`: ms from one number to the next; `prepare` gives a page what is called there; more
   * is for `connect`
   */
  static async start(browser, how = {}) {
    const { host = '127.0.0.1', best = 'webtransport', every = EVERY_MS, prepare = (page) => page.evaluate(helpers), ...options } = how;
    const world = new World();
    Object.assign(world, { best, prepare });
    world.server = await Server.start();
    world.feed = new Feed(world.server.base, every);
    world.http = new URL(world.server.base).port;
    await world.#find();
    world.options = options;
    world.origin = world.server.base.replace('127.0.0.1', host);
    world.browser = browser;
    return world;
  }

  async #find() {
    const { webtransport } = await this.feed.ask('/connect');
    this.quic = new URL(webtransport.url).port;
    this.hashesBefore = this.hashes;
    this.hashes = webtransport.certificate_hashes.map(({ value }) => value);
  }

  /** A page that has a client, to which all is told from now on. */
  async open() {
    // In a window of its own: a tab is shown, and so woken, when the one before it is closed.
    this.context = await this.browser.createBrowserContext();
    this.page = await this.context.newPage();
    await this.page.goto(`${this.origin}/healthz`);
    await this.prepare(this.page);
    await this.page.evaluate((channels, options) => window.begin(channels, options), this.feed.channels, this.options);
    return this.page;
  }

  /** A page whose client has its transport and is being told numbers. */
  async begin(transport = this.best) {
    await this.open();
    this.feed.start();
    return this.reach({ transport, count: 5 });
  }

  /** One page with so many frames of the server's origin, opened at once, each with a client as a page of its own would have it. */
  async openFrames(count) {
    this.context = await this.browser.createBrowserContext();
    this.page = await this.context.newPage();
    /** @type {string[]} */
    const failed = [];
    this.page.on?.('requestfailed', (request) => failed.push(`${request.url()} ${request.failure()?.errorText}`));
    // Nothing that is asked of a page settles when it crashes.
    const crashed = new Promise((_, reject) => { this.page.on?.('error', reject); });
    const gone = this.server.ended.then((code) => { throw new Error(`the server ended with ${code}`); });
    for (const end of [crashed, gone]) end.catch(() => {});
    await this.page.goto(`${this.origin}/healthz`);
    await this.page.evaluate((count, deadline, source, channels, options) => {
      window.tabs = [];
      window.each = (run) => Promise.all(window.tabs.map(run));
      const open = async () => {
        const frame = document.createElement('iframe');
        const loaded = new Promise((resolve) => { frame.onload = resolve; });
        frame.src = '/healthz';
        document.documentElement.append(frame);
        await loaded;
        const tab = frame.contentWindow;
        window.tabs.push(tab);
        tab.eval(`(${source})()`);
        await tab.begin(channels, options);
        await tab.reach({ status: 'open', taken: true }, deadline);
      };
      window.opened = Promise.all(Array.from({ length: count }, open));
    }, count, FRAMES_DEADLINE, String(helpers), this.feed.channels, this.options);
    const opened = this.page.evaluate(() => window.opened.then(() => true));
    await within(`${count} frames`, Promise.race([opened, crashed, gone]), FRAMES_DEADLINE).catch(async (error) => {
      const stuck = () => window.tabs.map((tab) => tab.report?.()).filter((report) => !(report?.taken && report.status === 'open'));
      error.message += `; ${failed.length} requests failed: ${failed.slice(0, TOLD)}; ${await this.said(stuck)}`;
      throw error;
    });
  }

  /** What a page says of a failure, or why it says nothing. @param {() => unknown} report */
  async said(report) {
    return within('a report', this.page.evaluate(report), REPORT_DEADLINE).then(JSON.stringify, String);
  }

  reachAll(wanted, deadline = DEADLINE) {
    const reached = this.page.evaluate((wanted, deadline) => window.each((frame) => frame.reach(wanted, deadline)), wanted, deadline);
    return within(JSON.stringify(wanted), reached, deadline + 1500);
  }

  reach(wanted, deadline = DEADLINE) {
    return within(JSON.stringify(wanted), this.page.evaluate((wanted, deadline) => window.reach(wanted, deadline), wanted, deadline), deadline + 1500);
  }

  /** Publishing stops, and the page gets to where it did: its last report. */
  async settle() {
    const last = await this.feed.stop();
    return this.reach({ last, state: this.feed.state });
  }

  cut(protocol, ways) {
    return cut(protocol, protocol === 'udp' ? this.quic : this.http, ways);
  }

  /** Another process in the place of the one before. */
  async restart(signal) {
    this.server.process.kill(signal);
    await within('the end of the server', this.server.ended);
    this.feed.forget();
    this.server = await Server.start([], { http: `127.0.0.1:${this.http}`, quic: `127.0.0.1:${this.quic}` });
    await this.#find();
  }

  async stop() {
    this.feed.end();
    await this.context?.close();
    await this.server.stop();
  }
}
