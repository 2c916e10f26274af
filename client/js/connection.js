/**
 * What all connections have in common, and what those have that carry requests in-band (WebSocket, WebTransport).
 */

/**
 * @typedef {import('./wire.js').Message} Message
 * @typedef {{code: number, reason: string, error?: unknown, retry?: number}} Close
 * @typedef {import('./wire.js').ClientMessage} ClientMessage
 * @typedef {import('./wire.js').Content} Content
 * @typedef {{subscribe: import('./wire.js').Subscribed, unsubscribe: import('./wire.js').Unsubscribed,
 *   publish: import('./wire.js').Published, attach: import('./wire.js').Attached, ping: import('./wire.js').Pong
 *   }} Answers by the type of what they answer
 * @typedef {Extract<ClientMessage, {type: keyof Answers}>} Request
 * @typedef {Answers[keyof Answers]} Answer
 * @typedef {{bytes: number, publications: number, datagrams: number, late: number, lost: number, repaired: number,
 *   sent: number}} Counts bytes and datagrams received, frames of state among these that came late or not at all, values
 *   that came anew after one was lost, and bytes sent
 * @typedef {{after?: string | null, position?: {epoch: string, offset: number}}} From
 */
import { CloseCode, FulmarError, closedError } from './errors.js';
import { entryOf } from './cursor.js';
import { Positions } from './positions.js';

let serials = 0;

/** How much a new measurement counts in the smoothed round trip (RFC 9002, section 5.3). */
const RTT_WEIGHT = 1 / 8;

/** @abstract */
export class Connection {
  /** Connections that were opened later have a higher one. */
  serial = ++serials;
  /** When the server was heard last, by `performance.now()`. */
  heard = performance.now();
  /** For how long a connection that is well may be quiet, and how long an answer may take then, in ms. */
  quiet = 12_000;
  patience = 5000;
  /** Of messages that were answered, in ms. @type {{last: number, least: number, smoothed: number} | null} */
  rtt = null;
  /**
   * Called with each publication, gap, reset and synced, and with an error that answers nothing.
   * @type {((message: Message) => void) | null}
   */
  onmessage = null;
  /** What has been received, and the bytes that were sent: of the transport's payload. @type {Counts} */
  received = { bytes: 0, publications: 0, datagrams: 0, late: 0, lost: 0, repaired: 0, sent: 0 };
  /** How the connection ended, once it has; never rejects. @type {Promise<Close>} */
  closed;
  /** @type {(close: Close) => void} */
  #finish = () => {};
  #finished = false;

  /** @param {import('./fulmar.js').TransportName} transport @param {string} encoding */
  constructor(transport, encoding) {
    this.transport = transport;
    this.encoding = encoding;
    this.closed = new Promise((resolve) => (this.#finish = resolve));
  }

  get open() {
    return !this.#finished;
  }

  /** @protected @param {Close} close */
  finish(close) {
    if (this.#finished) return;
    this.#finished = true;
    this.release(close);
    this.#finish(close);
  }

  /** Asks the server for a sign of life. @returns {boolean} whether it can be asked */
  probe() {
    return false;
  }

  /** Where the channel's reading goes on from. @abstract @param {string} channel @returns {import('./cursor.js').Entry | null} */
  entry(channel) {
    return null;
  }

  /** @abstract @param {string} channel @returns {boolean} whether it is subscribed to, or about to be */
  has(channel) {
    return false;
  }

  /** Who the client is, from now on: to be said before it subscribes. @abstract @param {string} secret of its session */
  identify(secret) {}

  /** It is of no use any more, and whoever uses it comes back by another. */
  lost(reason = 'The server was not heard any more.') {
    this.finish({ code: CloseCode.LOST, reason });
    this.close();
  }

  /** @abstract @param {number} [code] @param {string} [reason] */
  close(code, reason) {}

  /** Lets go of what the connection holds. @protected @abstract @param {Close} close */
  release(close) {}

  /** @protected @param {Message} message */
  deliver(message) {
    if (message.type === 'publication') this.received.publications++;
    try {
      this.onmessage?.(message);
    } catch (error) {
      // The application's mistake is the application's to see, and must not stop the reading.
      setTimeout(() => { throw error; });
    }
  }
}

/** @abstract */
export class InbandConnection extends Connection {
  /** @protected @type {Positions} */
  positions;
  /** What the server said it is about to close with. @protected @type {Close | null} */
  closing = null;
  /** @type {Map<number, {began: number, resolve: (answer: Answer) => void, reject: (error: Error) => void}>} */
  #waiting = new Map();
  /** @type {Set<string>} */
  #channels = new Set();
  #ref = 0;

  /** @param {import('./fulmar.js').TransportName} transport @param {string} encoding */
  constructor(transport, encoding) {
    super(transport, encoding);
    this.positions = new Positions();
  }

  /** A cursor over all channels; null while there is none to be had. @returns {string | null} */
  get cursor() {
    return this.positions.cursor;
  }

  /**
   * @param {string} channel
   * @param {From} [from] where to go on; a cursor that does not name the channel is as none
   * @returns {Promise<Answers['subscribe']>}
   */
  async subscribe(channel, { after, position } = {}) {
    if (this.#channels.has(channel)) {
      throw new FulmarError('already_subscribed', `The connection has ${channel} already: unsubscribe first.`);
    }
    /** @type {import('./wire.js').Subscribe} */
    const message = { type: 'subscribe', channel };
    const entry = position ?? (after ? entryOf(after, channel) : undefined);
    if (position) message.position = position;
    else if (entry && after) message.after = after;
    this.#channels.add(channel);
    if (entry) this.positions.seed(channel, entry);
    try {
      return await this.sendSubscribe(message);
    } catch (error) {
      this.#channels.delete(channel);
      // When it is the connection that was lost, the position asked from is still where to go on.
      if (this.open) this.positions.forget(channel);
      throw error;
    }
  }

  /** @param {string} channel */
  async unsubscribe(channel) {
    await this.sendUnsubscribe({ type: 'unsubscribe', channel });
    this.#channels.delete(channel);
    this.positions.forget(channel);
  }

  /** @param {string} channel @param {Content} content @returns {Promise<Answers['publish']>} */
  publish(channel, content) {
    return this.request({ type: 'publish', channel, ...content });
  }

  /**
   * Takes over the session of a secret. What is sent next need not wait for the answer where the connection was opened for
   * that (WebTransport: `attach`) and the session is taken `fresh`: without its subscriptions, and made if it is not known.
   * @param {string} secret @param {{fresh?: boolean}} [options]
   * @returns {Promise<Answers['attach']>} the `attached` that answers
   */
  attach(secret, { fresh = false } = {}) {
    const whose = fresh ? { fresh } : { id: secret.split('.', 1)[0] };
    return this.request({ type: 'attach', ...whose, secret });
  }

  /** @returns {Promise<Answers['ping']>} */
  ping() {
    return this.request({ type: 'ping' });
  }

  /** @param {number} last round trip */
  #measured(last) {
    const { least = last, smoothed = last } = this.rtt ?? {};
    this.rtt = { last, least: Math.min(least, last), smoothed: smoothed + RTT_WEIGHT * (last - smoothed) };
  }

  probe() {
    this.ping().catch(() => {});
    return true;
  }

  /** @param {string} channel */
  entry(channel) {
    return this.positions.entry(channel);
  }

  /** @param {string} channel */
  has(channel) {
    return this.#channels.has(channel);
  }

  /** @param {string} secret */
  identify(secret) {
    // Where it is refused the connection serves all the same, as a session of its own.
    this.attach(secret, { fresh: true }).catch(() => {});
  }

  /** @protected @abstract @param {ClientMessage} message */
  send(message) {}

  /** @protected @param {import('./wire.js').Subscribe} message @returns {Promise<Answers['subscribe']>} */
  sendSubscribe(message) {
    return this.request(message);
  }

  /** @protected @param {import('./wire.js').Unsubscribe} message @returns {Promise<Answers['unsubscribe']>} */
  sendUnsubscribe(message) {
    return this.request(message);
  }

  /**
   * Sends a message with a `ref` and waits for what answers it.
   * @template {Request} R
   * @protected @param {R} message @param {(message: R) => void} [send]
   * @returns {Promise<Answers[R['type']]>}
   */
  request(message, send = (numbered) => this.send(numbered)) {
    if (!this.open) return Promise.reject(new FulmarError('closed', 'The connection is closed: open another.'));
    const ref = (this.#ref = (this.#ref % 0xffffffff) + 1);
    return new Promise((resolve, reject) => {
      // What bears a request's `ref` is what answers its type.
      this.#waiting.set(ref, { began: performance.now(), resolve: /** @type {(answer: Answer) => void} */ (resolve), reject });
      try {
        send({ ...message, ref });
      } catch (error) {
        this.#waiting.delete(ref);
        reject(error);
      }
    });
  }

  /** @protected @param {Message} message of the server, without alias @param {boolean} [datagram] */
  receive(message, datagram = false) {
    this.heard = performance.now();
    switch (message.type) {
      case 'publication':
      case 'gap':
      case 'reset':
      case 'synced':
        this.deliver(message);
        this.positions.note(message, datagram);
        break;
      case 'subscribed':
        this.positions.note(message);
        this.#answer(message);
        break;
      case 'unsubscribed':
      case 'published':
      case 'attached':
      case 'pong': this.#answer(message); break;
      case 'error':
        if (message.ref === undefined) this.deliver(message);
        else this.#answer(message);
        break;
      case 'ping': this.send({ type: 'pong', ref: message.ref }); break;
      case 'close':
        this.closing ??= { code: message.code, reason: message.reason };
        if (message.retry_ms !== undefined) this.closing.retry ??= message.retry_ms;
        break;
      // A type that is not known is of a later minor version.
    }
  }

  /** @param {Answer | import('./wire.js').ErrorMessage} message */
  #answer(message) {
    const { ref } = message;
    const waiting = ref === undefined ? undefined : this.#waiting.get(ref);
    if (ref === undefined || !waiting) return;
    this.#waiting.delete(ref);
    if (message.type === 'error') waiting.reject(new FulmarError(message.error.code, message.error.message));
    else {
      // A subscription may have to wait for others.
      if (message.type !== 'subscribed' && message.type !== 'unsubscribed') this.#measured(this.heard - waiting.began);
      waiting.resolve(message);
    }
  }

  /** @protected @param {Close} close */
  release(close) {
    const error = closedError(close);
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
  }

  /** Closed because the server cannot be followed any more. @protected @param {unknown} error */
  fail(error) {
    if (!this.open) return;
    const reason = error instanceof Error ? error.message : String(error);
    const broken = error instanceof FulmarError && error.code === 'malformed';
    this.finish(this.closing ?? { code: broken ? CloseCode.PROTOCOL_ERROR : CloseCode.LOST, reason, error });
    this.close(broken ? CloseCode.PROTOCOL_ERROR : CloseCode.NORMAL, reason);
  }
}
