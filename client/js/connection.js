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
import { LOST, NORMAL } from './codes.js';
import { FulmarError, closeFor, closedError, deferred, guarded, malformed } from './errors.js';
import { entryFrom } from './cursor.js';
import { MAX_ASKED } from './limits.js';
import { createReceiver } from './receiver.js';

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
  /** Of messages and requests that were answered, in ms. @type {{last: number, least: number, smoothed: number} | null} */
  rtt = null;
  /**
   * Called with each publication, gap, reset and synced, and with an error that answers nothing.
   * @type {((message: Message) => void) | null}
   */
  onmessage = null;
  /** What has been received, and the bytes that were sent: of the transport's payload. @type {Counts} */
  received = { bytes: 0, publications: 0, datagrams: 0, late: 0, lost: 0, repaired: 0, sent: 0 };
  open = true;
  /** @type {Close | null} */
  #close = null;
  #ended = /** @type {typeof deferred<Close>} */ (deferred)();
  /** How the connection ended, once it has; never rejects. @type {Promise<Close>} */
  closed = this.#ended.promise;
  /** @protected @type {import('./receiver.js').Receiver} */
  receiver = createReceiver((message) => this.deliver(message), this.received);
  /** Those that are subscribed to, or about to be. @protected @type {{has(channel: string): boolean}} */
  channels = this.receiver.channels;

  /** @param {import('./fulmar.js').TransportName} transport @param {string} encoding */
  constructor(transport, encoding) {
    this.transport = transport;
    this.encoding = encoding;
  }

  /** A cursor over all channels; null while there is none to be had. @returns {string | null} */
  get cursor() {
    return this.receiver.cursor();
  }

  /** Where the channel's reading goes on from. @param {string} channel @returns {import('./cursor.js').Entry | null} */
  entry(channel) {
    return this.receiver.entry(channel);
  }

  /** @param {string} channel @returns {boolean} whether it is subscribed to, or about to be */
  has(channel) {
    return this.channels.has(channel);
  }

  /** @protected @param {Close} close */
  finish(close) {
    if (!this.open) return;
    this.open = false;
    this.#close = close;
    this.release(close);
    this.#ended.resolve(close);
  }

  /** Asks the server for a sign of life. @returns {boolean} whether it can be asked */
  probe() {
    return false;
  }

  /** It is of no use any more, and whoever uses it comes back by another. */
  lost(reason = 'The server is silent.') {
    this.finish({ code: LOST, reason });
    this.close();
  }

  /** Over HTTP nobody is told: requests just end. @param {number} [code] @param {string} [reason] */
  close(code = NORMAL, reason = '') {
    this.finish({ code, reason });
  }

  /** Lets go of what the connection holds. @protected @abstract @param {Close} close */
  release(close) {}

  /** Throws where nothing can be asked any more. @protected */
  mustBeOpen() {
    if (this.#close) throw closedError(this.#close);
  }

  /** Throws where the channel cannot be subscribed to. @protected @param {string} channel */
  mustLack(channel) {
    this.mustBeOpen();
    if (this.has(channel)) throw new FulmarError('already_subscribed', `The connection has ${channel}: unsubscribe first.`);
  }

  /** Something that is answered at once has been. @protected @param {number} began when it was asked, by `performance.now()` */
  answered(began) {
    const last = performance.now() - began;
    const { least = last, smoothed = last } = this.rtt ?? {};
    this.rtt = { last, least: Math.min(least, last), smoothed: smoothed + RTT_WEIGHT * (last - smoothed) };
  }

  /** @protected @param {Message} message */
  deliver(message) {
    if (message.type === 'publication') this.received.publications++;
    guarded(this.onmessage, message);
  }
}

/**
 * @typedef {object} Inner what a connection is to what carries its messages
 * @property {boolean} open
 * @property {number} heard
 * @property {() => void} mustBeOpen
 * @property {number} quiet
 * @property {number} patience
 * @property {Counts} received
 * @property {import('./receiver.js').Receiver} receiver
 * @property {(close: Close) => void} finish
 * @property {(error: unknown) => void} fail
 * @property {(frame: import('./wire.js').Frame, datagram?: boolean) => boolean} receive
 * @property {(message: Request, pipe?: Pipe) => Promise<any>} request
 *
 * @typedef {object} Link what carries the messages of a connection
 * @property {(message: ClientMessage, pipe?: Pipe) => void} send
 * @property {(code: number, reason: string) => void} close
 * @property {(channel: string, from: From) => Promise<{pipe: Pipe, ref?: number}>} [begin] before a channel is subscribed to: the
 *   stream that it comes by, and the `ref` of the request where the server has that already
 *
 * @typedef {{send: (message: ClientMessage) => unknown, end?: () => void}} Pipe a stream of the connection's own
 */

export class InbandConnection extends Connection {
  /** What the server said it is about to close with. @type {Close | null} */
  #closing = null;
  /** @type {Map<unknown, {began: number, resolve: (answer: any) => void, reject: (error: Error) => void}>} */
  #waiting = new Map();
  // The first are those of what went with the CONNECT.
  #ref = MAX_ASKED;
  /** Of the channels that have one. @type {Map<string, Pipe>} */
  #pipes = new Map();
  #link;

  /** @package @param {import('./fulmar.js').TransportName} transport @param {string} encoding @param {(inner: Inner) => Link} link */
  constructor(transport, encoding, link) {
    super(transport, encoding);
    this.#link = link(/** @type {Inner} */ (/** @type {unknown} */ (this)));
  }

  /**
   * @param {string} channel
   * @param {From} [from] where to go on; a cursor that does not name the channel is as none
   * @returns {Promise<Answers['subscribe']>}
   */
  async subscribe(channel, from = {}) {
    this.mustLack(channel);
    const { position, after } = from;
    const entry = entryFrom(channel, from);
    this.receiver.begin(channel, entry);
    try {
      const { pipe, ref } = await this.#link.begin?.(channel, from) ?? {};
      if (pipe) this.#pipes.set(channel, pipe);
      return await this.request({ type: 'subscribe', channel, position, after: entry && after || undefined }, pipe, ref);
    } catch (error) {
      // When it is the connection that was lost, the position asked from is still where to go on.
      if (this.open) this.#forget(channel);
      throw error;
    }
  }

  /** @param {string} channel */
  async unsubscribe(channel) {
    await this.request({ type: 'unsubscribe', channel }, this.#pipes.get(channel));
    this.#forget(channel);
  }

  /** @param {string} channel is not read any more */
  #forget(channel) {
    this.receiver.forget(channel);
    this.#pipes.get(channel)?.end?.();
    this.#pipes.delete(channel);
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

  probe() {
    this.ping().catch(() => {});
    return true;
  }

  /** Who the client is, from now on: to be said before it subscribes. @param {string} secret of its session */
  identify(secret) {
    // Where it is refused the connection serves all the same, as a session of its own.
    this.attach(secret, { fresh: true }).catch(() => {});
  }

  /**
   * Sends a message with a `ref`, unless the server had it before, and waits for what answers it.
   * @template {Request} R
   * @protected @param {R} message @param {Pipe} [pipe] that it goes by @param {number} [had] the `ref` that it had then
   * @returns {Promise<Answers[R['type']]>}
   */
  async request(message, pipe, had) {
    this.mustBeOpen();
    const ref = had || (this.#ref = (this.#ref % 0xffffffff) + 1);
    if (!had) this.#link.send({ ...message, ref }, pipe);
    const { promise, ...waiting } = /** @type {typeof deferred<Answers[R['type']]>} */ (deferred)();
    this.#waiting.set(ref, { began: performance.now(), ...waiting });
    return promise;
  }

  /**
   * @protected @param {import('./wire.js').Frame | Message} frame of the server @param {boolean} [datagram]
   * @returns {boolean} false where it came in a datagram, and before what it is about
   */
  receive(frame, datagram) {
    this.heard = performance.now();
    const message = this.receiver.resolve(frame);
    if (!message) {
      if (datagram) return false;
      throw malformed('alias');
    }
    switch (message.type) {
      case 'ping': this.#link.send({ type: 'pong', ref: message.ref }); break;
      case 'close': {
        const { code, reason, retry_ms: retry } = message;
        this.#closing ??= { code, reason, ...(retry !== undefined && { retry }) };
        break;
      }
      default:
        if ('ref' in message) this.#answer(/** @type {Answer} */ (message));
        // What is told of a channel; also that the session has subscribed to it elsewhere.
        else if ('epoch' in message) return this.receiver.take(/** @type {import('./wire.js').InChannel} */ (message), datagram);
        else if (message.type === 'error') this.deliver(message);
    }
    return true;
  }

  /** @param {Answer | import('./wire.js').ErrorMessage} message */
  #answer(message) {
    const { type, ref } = message;
    const waiting = this.#waiting.get(ref);
    // What answers nobody is not wanted any more.
    if (!waiting) return;
    this.#waiting.delete(ref);
    if (type === 'error') {
      waiting.reject(new FulmarError(message.error.code, message.error.message));
      return;
    }
    // A subscription may have to wait for others.
    if (type === 'subscribed') this.receiver.take(message);
    else if (type !== 'unsubscribed') this.answered(waiting.began);
    waiting.resolve(message);
  }

  /** @protected @param {Close} close what it ended with, where the server did not say another */
  finish(close) {
    super.finish(this.#closing ?? close);
  }

  /** @protected @param {Close} close */
  release(close) {
    const error = closedError(close);
    for (const { reject } of this.#waiting.values()) reject(error);
  }

  /** Closed because the server cannot be followed any more. @protected @param {unknown} error */
  fail(error) {
    const close = closeFor(error);
    this.finish(close);
    this.#link.close(close.code === LOST ? NORMAL : close.code, close.reason);
  }

  /** @param {number} [code] @param {string} [reason] */
  close(code = NORMAL, reason = '') {
    this.#link.close(code, reason);
  }
}
