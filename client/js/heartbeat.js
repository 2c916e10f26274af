/**
 * Finds out that a connection is dead though nobody said so: when nothing was heard for a while the server is asked, and
 * has a few seconds to answer.
 */
import { OVERSLEPT_MS } from './limits.js';

export class Heartbeat {
  #connection;
  #lost;
  /** @type {any} */
  #timer;
  #asked = -Infinity;
  #expected = 0;

  /** @param {import('./fulmar.js').AnyConnection} connection @param {() => void} lost called once, when it is dead */
  constructor(connection, lost) {
    this.#connection = connection;
    this.#lost = lost;
  }

  start() {
    this.#arm(this.#connection.quiet);
  }

  stop() {
    clearTimeout(this.#timer);
  }

  /** Something may have happened to the network, or to the page: asks at once. */
  ask() {
    const canAnswer = this.#connection.probe();
    if (canAnswer) this.#asked = performance.now();
    this.#arm(this.#connection.patience);
    return canAnswer;
  }

  /** @param {number} ms */
  #arm(ms) {
    clearTimeout(this.#timer);
    this.#expected = performance.now() + ms;
    this.#timer = setTimeout(() => this.#look(), ms);
  }

  #look() {
    const now = performance.now();
    const { heard, quiet, patience } = this.#connection;
    const silence = now - heard;
    if (now - this.#expected > OVERSLEPT_MS) this.ask();
    else if (this.#asked > heard) {
      const left = this.#asked + patience - now;
      if (left > 50) this.#arm(left);
      else this.#lost();
    } else if (silence < quiet) this.#arm(quiet - silence);
    else if (!this.ask()) this.#lost();
  }
}
