/**
 * A client that stays connected: it finds the best transport, keeps its subscriptions over whatever comes, and moves up
 * when a better transport opens.
 *
 * @typedef {import('./fulmar.js').AnyConnection} AnyConnection
 * @typedef {import('./fulmar.js').TransportName} TransportName
 * @typedef {import('./connection.js').Close} Close
 * @typedef {import('./connection.js').Content} Content
 * @typedef {'connecting' | 'open' | 'waiting' | 'closed'} Status `waiting`: for the next attempt to come back
 *
 * @typedef {object} ClientOptions
 * @property {readonly TransportName[]} [transports] those that may be used, the best first
 * @property {number} [wait] poll: seconds the server may wait. Default 25
 * @property {typeof fetch} [fetch] another one than the platform's
 * @property {typeof WebSocket} [WebSocket] likewise (node 20 has none)
 * @property {any} [WebTransport] likewise
 */
import { NORMAL, REPLACED, SESSION_EXPIRED } from './codes.js';
import { FIRST_CLIMB_MS, FIRST_PAUSE_MS, MAX_CLIMB_MS, MAX_PAUSE_MS, MAX_TIMER_MS, STABLE_MS } from './limits.js';
import { pause } from './pause.js';
import { Channel } from './channel.js';
import { entryOf, formatCursor } from './cursor.js';
import { Dialler } from './dial.js';
import { FulmarError, advice, closeFor, closedError, deferred, isPassing, unreachable } from './errors.js';
import { Heartbeat } from './heartbeat.js';
import { toBase64 } from './json.js';
import { LiveState } from './live.js';
import { Publisher } from './publisher.js';
import { Meter } from './stats.js';
import { Subscription } from './subscription.js';

/** The secret of a session that the server makes when it first hears of it (PROTOCOL.md, section 4). */
const mintSecret = () => toBase64(crypto.getRandomValues(new Uint8Array(24))).replace(/\W/g, '-');

/**
 * Events: `status`, `transport`, `gap`, `error` and `close`, all of them with a `detail`.
 */
export class Client extends EventTarget {
  #opened = /** @type {typeof deferred<Client>} */ (deferred)();
  #closed = /** @type {typeof deferred<Close>} */ (deferred)();
  /** Settled at the first connection; rejects if the client is closed before. @type {Promise<Client>} */
  ready = this.#opened.promise;
  /** Settled when the client is closed, by itself or because the server does not want it back. @type {Promise<Close>} */
  closed = this.#closed.promise;
  /** How often the connection was lost and made again, and how often it moved to a better transport. */
  reconnects = 0;
  moves = 0;
  /** While it waits to come back: when it will, in ms since 1970. @type {number | null} */
  retryAt = null;
  #gaps = 0;
  #since = Date.now();
  #meter = new Meter();
  /** @type {Status} */
  #status = 'waiting';
  /** @type {AnyConnection | null} */
  #connection = null;
  /** @type {Map<string, Channel>} */
  #channels = new Map();
  /** By channel: settled when what was asked of the connection has been answered. @type {Map<string, Promise<void>>} */
  #busy = new Map();
  #secret = mintSecret();
  #publisher = new Publisher(this.#secret.slice(0, 4));
  /** Attempts to come back that were in vain. */
  #attempts = 0;
  #dialler;
  /** @type {Heartbeat | null} */
  #heartbeat = null;
  /** Ends the wait that is under way, or the next. */
  #hurry = deferred();
  /** Dials what is better. @type {any} */
  #climbing;
  /** Settled when the connection, or the last of those that took over from it, has closed. */
  #over = /** @type {typeof deferred<Close>} */ (deferred)();
  /** @type {Close | null} */
  #end = null;
  #suspended = false;

  /**
   * @param {string} base of the server
   * @param {readonly TransportName[]} transports
   * @param {(transport: TransportName, wanted: () => import('./fulmar.js').Wanted[]) => Promise<AnyConnection>} open
   */
  constructor(base, transports, open) {
    super();
    this.base = base;
    this.#dialler = new Dialler(base, transports, async (transport) => {
      this.#mustBeOpen();
      return open(transport, () => this.#wanted());
    }, (connection) => this.#climbed(connection));
  }

  get status() {
    return this.#status;
  }

  /** What carries the session now. @returns {TransportName | null} */
  get transport() {
    return this.#connection?.transport ?? null;
  }

  /**
   * A cursor over all channels, from which `subscribe` goes on over any transport; null where none can hold them: there are
   * none, or more than 32. @returns {string | null}
   */
  get cursor() {
    return formatCursor(this.#all.flatMap(({ entry }) => entry ?? []));
  }

  /** What became of each transport when it was tried last, so also why it is not used. */
  get attempts() {
    return [...this.#dialler.attempts.values()].map((attempt) => ({ ...attempt }));
  }

  /** What has been measured so far. @returns {import('./stats.js').Stats} */
  stats() {
    const { bytes, publications, sent, datagrams, ...frames } = this.#meter.counts;
    const newest = Math.max(...this.#all.map(({ view }) => view?.newest || -Infinity));
    const rtt = this.#connection?.rtt;
    return {
      transport: this.transport,
      status: this.#status,
      since: this.#since,
      rtt: rtt ? { ...rtt } : null,
      jitter: this.#meter.jitter,
      stateAge: newest > 0 ? Math.max(0, Date.now() - newest) : null,
      datagrams: { received: datagrams, ...frames },
      bytes: { received: bytes, sent },
      publications,
      reconnects: this.reconnects,
      moves: this.moves,
      gaps: this.#gaps,
      pending: this.#publisher.pending,
      attempts: this.attempts.map(({ error, ...rest }) => ({ ...rest, ...(error && { reason: error.message }) })),
    };
  }

  /**
   * @param {string} channel
   * @param {import('./subscription.js').Handlers & {after?: string}} [handlers] `after`: a cursor to go on from; without
   *   one events begin now, and state with all values. A channel that the client has already goes on where it is
   * @returns {Subscription}
   */
  subscribe(channel, { after, ...handlers } = {}) {
    const held = this.#channel(channel, after);
    return held.add(new Subscription(held, handlers));
  }

  /** @param {string} channel of state @returns {LiveState} its newest values */
  state(channel) {
    const held = this.#channel(channel);
    const state = held.add(new LiveState(held));
    if (held.entry && !held.synced) {
      // It was begun from a cursor, so not all of its values are known here.
      this.#owner.pause(held);
      held.forget();
      this.#owner.resume(held);
    }
    return state;
  }

  /**
   * Publishes once, whatever happens to the connection meanwhile.
   * @param {string} channel
   * @param {unknown} data text, bytes (Uint8Array), or what JSON can hold
   * @param {{key?: string, id?: string, priority?: number}} [more]
   * @returns {Promise<{epoch: string, offset: number}>} when the server has it
   */
  publish(channel, data, more = {}) {
    return this.#publish(channel, { ...more, data });
  }

  /** Removes a key of state. @param {string} channel @param {string} [key] */
  remove(channel, key = '') {
    return this.#publish(channel, { key, removed: true });
  }

  /** @param {string} channel @param {Content} content */
  async #publish(channel, content) {
    this.#mustBeOpen();
    return this.#publisher.publish(channel, content);
  }

  /**
   * Publishes what is of no use later: it is not kept until there is a connection, and not sent again.
   * @param {string} channel @param {unknown} data
   * @param {{key?: string, ttl_ms?: number}} [more]
   * @returns {boolean} whether it was sent
   */
  signal(channel, data, more = {}) {
    if (!this.#connection?.open) return false;
    this.#connection.publish(channel, { ...more, data }).catch((error) => {
      if (error.code !== 'closed') this.#tell('error', error);
    });
    return true;
  }

  #mustBeOpen() {
    if (this.#end) throw closedError(this.#end);
  }

  /** Says goodbye. @param {string} [reason] */
  close(reason = '') {
    this.#stop({ code: NORMAL, reason });
  }

  // ---- channels -----------------------------------------------------------------------------------------------------

  get #all() {
    return [...this.#channels.values()];
  }

  /** What a connection that opens will be asked for. One that is to take over goes on from where the other will be then. */
  #wanted() {
    return this.#connection?.open ? [] : this.#all.filter(({ paused, full }) => !(paused && full)).map(({ name, from }) => ({ channel: name, ...from }));
  }

  /** @param {string} name @param {string} [after] */
  #channel(name, after) {
    this.#mustBeOpen();
    const held = this.#channels.get(name);
    if (held) return held;
    const channel = new Channel(name, this.#owner, (after && entryOf(after, name)) || null);
    this.#channels.set(name, channel);
    // There may have been one of the name, of which something comes yet.
    channel.paused = true;
    this.#join(channel);
    return channel;
  }

  /** @type {import('./channel.js').Owner} */
  #owner = {
    pause: (channel) => {
      channel.paused = true;
      this.#part(channel);
    },
    resume: (channel) => this.#join(channel),
    drop: (channel) => {
      if (this.#channels.get(channel.name) !== channel) return;
      this.#channels.delete(channel.name);
      this.#part(channel);
    },
    gap: (message) => {
      this.#gaps++;
      this.#tell('gap', message);
    },
  };

  /** What is asked for of a channel goes one behind the other. @param {string} name @param {() => Promise<void>} step */
  #queue(name, step) {
    const done = Promise.resolve(this.#busy.get(name)).then(step).catch(() => {}).then(() => {
      if (this.#busy.get(name) === done) this.#busy.delete(name);
    });
    this.#busy.set(name, done);
  }

  /** Subscribes to it on the connection that there is by then. @param {Channel} channel */
  #join(channel) {
    const { name } = channel;
    const isWanted = () => this.#channels.get(name) === channel && !(channel.paused && channel.full);
    this.#queue(name, async () => {
      const connection = this.#connection;
      if (!connection?.open || !isWanted() || connection.has(name)) return;
      const { paused } = channel;
      // Not before: what still came of the old subscription lies behind a hole.
      channel.paused = false;
      try {
        const subscribed = connection.subscribe(name, channel.from);
        // Likewise what comes of it yet on the connection before.
        if (paused) channel.hear(connection);
        await subscribed;
        if (isWanted()) channel.hear(connection);
        channel.accepted();
      } catch (error) {
        // When it is the connection that was lost, the next one asks again.
        if (!connection.open || !(error instanceof FulmarError)) return;
        if (isPassing(error)) return connection.lost();
        this.#owner.drop(channel);
        error.channel = name;
        channel.end(error);
        this.#tell('error', error);
      }
    });
  }

  /** @param {Channel} channel is not read any more */
  #part(channel) {
    const connection = this.#connection;
    if (!connection) return;
    const { name } = channel;
    channel.lose(connection);
    this.#queue(name, async () => {
      if (connection.open && connection.has(name)) await connection.unsubscribe(name);
    });
  }

  // ---- connections --------------------------------------------------------------------------------------------------

  /** Connects, and comes back until it is closed. To be called once. */
  async run() {
    while (!this.#end) {
      this.#say('connecting');
      this.#over = deferred();
      /** @type {Close} */
      let close;
      try {
        const connection = await this.#dialler.dial();
        if (this.#end) return connection.close();
        this.#hurry = deferred();
        this.#use(connection);
        close = await this.#over.promise;
      } catch (error) {
        close = closeFor(error);
      }
      const { code, error } = close;
      const wasOpen = this.#status === 'open';
      const told = error instanceof FulmarError ? error : wasOpen ? closedError(close) : unreachable(close.reason, error);
      let { retry } = close;
      if (told.code === 'held_back') {
        this.#dialler.bar('sse', told);
        retry ??= 0;
      }
      // Nobody else has the secret: it was a connection of this client whose word came late when it was left for a better one.
      if (advice(code) === 'stop' && code !== REPLACED) this.#stop(close);
      if (code === SESSION_EXPIRED) this.#secret = mintSecret();
      if (this.#end) break;
      if (wasOpen) {
        this.reconnects++;
        if (Date.now() - this.#since > STABLE_MS) this.#attempts = 0;
      }
      this.#tell('error', told);
      // Who is told may close it.
      if (this.#end) break;
      // Exponential backoff with full jitter; the delay that the server asked for is kept to, and is no failure.
      const ms = Math.min(retry ?? Math.random() * Math.min(MAX_PAUSE_MS, FIRST_PAUSE_MS * 2 ** this.#attempts++), MAX_TIMER_MS);
      this.retryAt = Date.now() + ms;
      this.#say('waiting');
      do {
        await pause(this.#suspended ? MAX_TIMER_MS : ms, this.#hurry.promise);
        this.#hurry = deferred();
      } while (this.#suspended && !this.#end);
      this.retryAt = null;
    }
  }

  /** @param {AnyConnection} connection takes over from the one before */
  #use(connection) {
    const before = this.#connection;
    this.#connection = connection;
    connection.onmessage = (message) => this.#take(connection, message);
    connection.closed.then((close) => connection === this.#connection && this.#leave(connection, close));
    this.#heartbeat?.stop();
    this.#heartbeat = new Heartbeat(connection, () => connection.lost());
    this.#heartbeat.start();
    this.#climb(connection, FIRST_CLIMB_MS);
    connection.identify(this.#secret);
    this.#meter.use(connection);
    // What the connection before owes an answer to may never get one: nothing here waits for that.
    this.#busy.clear();
    for (const channel of this.#all) this.#join(channel);
    // Behind the subscriptions: who has subscribed hears what they publish then.
    const joined = Promise.all(this.#busy.values());
    joined.then(() => {
      if (connection === this.#connection) this.#publisher.use(connection);
    });
    this.#say('open');
    this.#tell('transport', connection.transport);
    this.#opened.resolve(this);
    // What it still says counts until the new one has said its first word of a channel; that it is replaced is expected.
    if (before) joined.then(() => {
      for (const channel of this.#all) channel.lose(before);
      before.close();
    });
  }

  /** @param {AnyConnection} connection that is used @param {Close} close of it */
  #leave(connection, close) {
    for (const channel of this.#all) channel.lose(connection);
    this.#heartbeat?.stop();
    clearTimeout(this.#climbing);
    this.#publisher.use(null);
    this.#connection = null;
    this.#tell('transport', null);
    this.#over.resolve(close);
  }

  /** @param {AnyConnection} connection @param {import('./wire.js').Message} message */
  #take(connection, message) {
    if (message.type === 'error') {
      const { error: { code, message: reason }, channel } = message;
      this.#tell('error', Object.assign(new FulmarError(code, reason), { channel }));
      return;
    }
    if (message.type === 'publication' && connection === this.#connection) this.#meter.arrived(message.time);
    const { channel } = /** @type {import('./wire.js').InChannel} others are not delivered */ (message);
    this.#channels.get(channel)?.take(connection, /** @type {any} */ (message));
  }

  /** Dials what is better behind a running fallback, ever less often. @param {AnyConnection} connection @param {number} wait */
  #climb(connection, wait) {
    clearTimeout(this.#climbing);
    this.#climbing = setTimeout(async () => {
      await this.#dialler.dialBetter(connection.transport);
      if (connection === this.#connection) this.#climb(connection, Math.min(wait * 2, MAX_CLIMB_MS));
    }, wait * (0.5 + Math.random()));
  }

  /** @param {AnyConnection} connection that opened behind another @returns {boolean} whether it is used */
  #climbed(connection) {
    const { transport } = this;
    if (this.#end || !transport || !this.#dialler.prefers(connection.transport, transport)) return false;
    this.moves++;
    this.#use(connection);
    return true;
  }

  // ---- the platform's word ------------------------------------------------------------------------------------------

  /** There may be a network again, or somebody looks: asks what there is, and comes back at once where there is nothing. */
  wake() {
    this.#suspended = false;
    if (this.#connection?.open) this.#heartbeat?.ask();
    else this.#hurry.resolve();
  }

  /** The network is another one: what was found out about transports may not hold here. */
  networkChanged() {
    this.#dialler.networkChanged();
    this.wake();
    if (this.transport) this.#dialler.dialBetter(this.transport);
  }

  /** The page goes into the browser's cache, where no connection may stay open; `wake` brings it back. */
  suspend() {
    if (this.#end) return;
    this.#suspended = true;
    // As lost: a WebSocket says that it was closed when the page is back, and by then it must not be taken for goodbye.
    this.#connection?.lost('It was put away.');
  }

  // ---- the end ------------------------------------------------------------------------------------------------------

  /** @param {Close} close */
  #stop(close) {
    if (this.#end) return;
    this.#end = close;
    const error = /** @type {Error} */ (close.error) ?? closedError(close);
    this.#hurry.resolve();
    this.#publisher.end(error);
    for (const channel of this.#all) channel.end(close.code === NORMAL ? undefined : error);
    const connection = this.#connection;
    if (connection) {
      this.#leave(connection, close);
      connection.close(NORMAL, close.reason);
    }
    this.#opened.reject(error);
    this.#say('closed');
    this.#tell('close', close);
    this.#closed.resolve(close);
  }

  /** @param {Status} status */
  #say(status) {
    if (status === this.#status) return;
    this.#status = status;
    this.#since = Date.now();
    this.#tell('status', status);
  }

  /** @param {string} type @param {unknown} detail */
  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
