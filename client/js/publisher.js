/**
 * What a client publishes: each publication has an id, by which the server knows a repeat, so one whose answer was lost
 * with its connection is sent again on the next and still applied once (PROTOCOL.md, section 7).
 */
import { AGAIN_MS, MAX_PENDING, REPEAT_MS } from './limits.js';
import { FulmarError, deferred, isPassing, unreachable } from './errors.js';

/**
 * @typedef {import('./connection.js').Content} Content
 * @typedef {{channel: string, content: Content, resolve: (answer: {epoch: string, offset: number}) => void,
 *   reject: (error: unknown) => void, timer: any, sent: boolean}} Pending
 */

export class Publisher {
  /** In the order in which they were published. @type {Map<string, Pending>} */
  #pending = new Map();
  #count = 0;
  #prefix;
  /** @type {import('./fulmar.js').AnyConnection | null} */
  #connection = null;
  /** @type {any} */
  #again = null;

  /** @param {string} prefix that no other publisher of the session has */
  constructor(prefix) {
    this.#prefix = prefix;
  }

  get pending() {
    return this.#pending.size;
  }

  /**
   * @param {string} channel @param {Content} content
   * @returns {Promise<{epoch: string, offset: number}>} where it stands in the channel
   */
  async publish(channel, content) {
    if (this.#pending.size >= MAX_PENDING) {
      throw new FulmarError('too_many_pending', `${MAX_PENDING} publications have no answer yet: wait for some.`);
    }
    const id = content.id ?? `${this.#prefix}.${(this.#count++).toString(36)}`;
    if (this.#pending.has(id)) throw new FulmarError('bad_id', 'A publication of this id has no answer yet: give another id, or wait.');
    const { promise, ...settle } = /** @type {typeof deferred<{epoch: string, offset: number}>} */ (deferred)();
    const timer = setTimeout(() => this.#expire(id), REPEAT_MS);
    const pending = { channel, content: { ...content, id }, ...settle, timer, sent: false };
    this.#pending.set(id, pending);
    // Behind those that wait to be sent again.
    if (this.#connection && !this.#again) this.#send(this.#connection, id, pending);
    return promise;
  }

  /**
   * What has no answer is sent on this connection from now on.
   * @param {import('./fulmar.js').AnyConnection | null} connection
   */
  use(connection) {
    clearTimeout(this.#again);
    this.#again = null;
    this.#connection = connection;
    if (connection) for (const [id, pending] of this.#pending) this.#send(connection, id, pending);
  }

  /** @param {import('./fulmar.js').AnyConnection} connection @param {string} id @param {Pending} pending */
  async #send(connection, id, pending) {
    pending.sent = true;
    try {
      const { epoch, offset } = await connection.publish(pending.channel, pending.content);
      this.#take(id)?.resolve({ epoch, offset });
    } catch (error) {
      // Where no answer came because the connection or its session is gone, the next connection is asked again.
      if (error instanceof FulmarError && !isPassing(error)) this.#take(id)?.reject(error);
      // Where it is there all the same, it was a request of its own: all are sent once more, in their order.
      else if (connection === this.#connection && connection.open && !this.#again) {
        this.#again = setTimeout(() => this.use(this.#connection), /** @type {any} */ (error).retry ?? AGAIN_MS);
      }
    }
  }

  /** @param {string} id */
  #take(id) {
    const pending = this.#pending.get(id);
    this.#pending.delete(id);
    clearTimeout(pending?.timer);
    return pending;
  }

  /** @param {string} id */
  #expire(id) {
    const pending = this.#take(id);
    pending?.reject(pending.sent
      ? new FulmarError('unanswered', 'It was sent and not answered: look whether it was published before you repeat it.')
      : unreachable('There was no connection: publish it again.'));
  }

  /** @param {Error} error for all that wait */
  end(error) {
    this.use(null);
    for (const id of this.#pending.keys()) this.#take(id)?.reject(error);
  }
}
