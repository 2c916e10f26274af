/**
 * Finds the best transport that works here and now. The transports are dialled in their order, each with a head start
 * before the next; the first that opens is taken, and a better one that opens later is handed over then.
 *
 * @typedef {import('./fulmar.js').TransportName} TransportName
 * @typedef {import('./fulmar.js').AnyConnection} AnyConnection
 *
 * @typedef {{resolve: (connection: AnyConnection) => void, reject: (error: unknown) => void}} Waiting
 *
 * @typedef {object} Attempt what became of a transport when it was tried last
 * @property {TransportName} transport
 * @property {'dialling' | 'open' | 'failed'} outcome
 * @property {number} at ms since 1970 when it began
 * @property {number} [ms] how long it took
 * @property {Error} [error] why it is not used
 */
import { VERDICT_MS } from './limits.js';
import { deferred } from './errors.js';
import { pause } from './pause.js';
import { forget, recall, remember } from './verdict.js';

/** How long the next transport waits for one that neither opens nor fails, in ms. */
export const HEAD_START_MS = { webtransport: 500, websocket: 3000, sse: 3000, poll: 0 };

export class Dialler {
  /** By transport, in the order in which they are preferred. @type {Map<TransportName, Attempt>} */
  attempts = new Map();
  #order;
  /** What the verdict is remembered by. */
  #key;
  #open;
  #onbetter;
  /**
   * Who waits for the first that opens; another object for each race, so that attempts of those before it say nothing.
   * @type {Waiting | null}
   */
  #waiting = null;
  /** Those that are being dialled. @type {Map<TransportName, Promise<void>>} */
  #underWay = new Map();
  /** Until when, in ms since 1970, a transport is not worth a try. @type {Map<TransportName, number>} */
  #barred = new Map();

  /**
   * @param {string} base of the server
   * @param {readonly TransportName[]} order the transports that may be used, the best first
   * @param {(transport: TransportName) => Promise<AnyConnection>} open
   * @param {(connection: AnyConnection) => boolean} onbetter called with a connection that opens while `dial` does not wait for
   *   one: once, whoever dialled it. Where it gives false nobody needs it
   */
  constructor(base, order, open, onbetter) {
    this.#key = `fulmar:${base} ${order.join()}`;
    this.#order = order;
    this.#open = open;
    this.#onbetter = onbetter;
  }

  /**
   * @returns {Promise<AnyConnection>} the first that opens; rejects with the error of the best where none does
   */
  dial() {
    const { promise, ...waiting } = /** @type {typeof deferred<AnyConnection>} */ (deferred)();
    this.#race(waiting);
    return promise;
  }

  /** @param {Waiting} waiting */
  async #race(waiting) {
    const race = this.#waiting = { ...waiting };
    const attempts = [];
    for (const transport of this.#fromRemembered()) {
      const attempt = this.#attempt(transport);
      attempts.push(attempt);
      // One that was given up on before takes no head start from the one after it.
      await pause(HEAD_START_MS[transport], attempt);
      if (this.#waiting !== race) return;
    }
    await Promise.allSettled(attempts);
    if (this.#waiting !== race) return;
    this.#waiting = null;
    forget(this.#key);
    race.reject(this.#worst());
  }

  /**
   * Dials all that are better than what carries the connection now; one that opens is given to `onbetter`.
   * @param {TransportName} than
   * @returns {Promise<void>} settled when all have opened or failed
   */
  async dialBetter(than) {
    for (const transport of this.#worthATry(this.#order.slice(0, this.#order.indexOf(than)))) {
      try {
        return await this.#attempt(transport);
      } catch {
        // The attempt says why.
      }
    }
  }

  /** @param {AnyConnection} connection that is open */
  #opened(connection) {
    const waiting = this.#waiting;
    this.#waiting = null;
    if (waiting) waiting.resolve(connection);
    else if (!this.#onbetter(connection)) return connection.close();
    remember(this.#key, connection.transport);
  }

  /** @param {TransportName} transport @param {TransportName} than @returns {boolean} whether it is the better one */
  prefers(transport, than) {
    return this.#order.indexOf(transport) < this.#order.indexOf(than);
  }

  /** @param {readonly TransportName[]} order */
  #worthATry(order) {
    return order.filter((transport) => !(/** @type {number} */ (this.#barred.get(transport)) > Date.now()));
  }

  /** What worked a moment ago is dialled first; those better than it come behind it, later (`dialBetter`). */
  #fromRemembered() {
    const open = this.#worthATry(this.#order);
    const order = open.length ? open : [...this.#order];
    const at = order.indexOf(recall(this.#key));
    // What is better is tried too where the remembered one fails.
    return at > 0 ? [...order.splice(at), ...order] : order;
  }

  /** It opens, and is of no use here. @param {TransportName} transport @param {Error} error */
  bar(transport, error) {
    const at = Date.now();
    this.#barred.set(transport, at + VERDICT_MS);
    this.attempts.set(transport, { transport, outcome: 'failed', at, error });
    // Those before it have been tried just now.
    remember(this.#key, this.#order[this.#order.indexOf(transport) + 1]);
  }

  /** @param {TransportName} transport @returns {Promise<void>} settled when it has opened, and was handed over, or has failed */
  #attempt(transport) {
    const running = this.#underWay.get(transport);
    if (running) return running;
    const began = performance.now();
    /** @type {Attempt} */
    const attempt = { transport, outcome: 'dialling', at: Date.now() };
    this.attempts.set(transport, attempt);
    const end = (/** @type {Partial<Attempt>} */ how) => {
      Object.assign(attempt, { ms: performance.now() - began, ...how });
      if (this.#underWay.get(transport) === opening) this.#underWay.delete(transport);
    };
    const opening = this.#open(transport).then(
      (connection) => {
        end({ outcome: 'open' });
        this.#opened(connection);
      },
      (error) => {
        end({ outcome: 'failed', error });
        throw error;
      },
    );
    this.#underWay.set(transport, opening);
    return opening;
  }

  /** The error that says most: the server's own word before that of a network. */
  #worst() {
    const errors = [...this.attempts.values()].flatMap(({ error }) => error ?? []);
    return errors.find((error) => /** @type {Partial<import('./errors.js').FulmarError>} */ (error).status) ?? errors.at(-1);
  }

  /** The network is another one: what was found out may not hold, and what is being dialled may wait in vain. */
  networkChanged() {
    this.#barred.clear();
    forget(this.#key);
    this.#underWay.clear();
    if (this.#waiting) this.#race(this.#waiting);
  }
}
