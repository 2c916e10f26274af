/**
 * One consumer of a channel: by callbacks, or as an async iterator whose pace the reading follows.
 *
 * @typedef {import('./wire.js').Publication} Publication
 * @typedef {{channel: string, epoch: string, offset: number}} Place
 *
 * @typedef {object} Handlers
 * @property {(publication: Publication) => void} [onPublication] without it the subscription is an async iterator
 * @property {(gap: Place) => void} [onGap] publications were missed for good: reading goes on after this position
 * @property {(reset: Place) => void} [onReset] state: all values come anew, and `onSynced` when they have
 * @property {(synced: Place) => void} [onSynced]
 * @property {(error: Error) => void} [onError] the server does not let this channel be read (any more)
 */

import { HIGH_WATER, LOW_WATER } from './limits.js';
import { FulmarError, deferred, guarded } from './errors.js';

/** @implements {AsyncIterable<Publication>} */
export class Subscription {
  #channel;
  #handlers;
  /** What waits for the iterator; state by key, since only the newest value of a key counts. @type {Map<string | number, Publication>} */
  #queue = new Map();
  #count = 0;
  /** Who waits for the next. @type {((value?: unknown) => void)[]} */
  #waiting = [];
  #ended = false;
  /** @type {Error | null} */
  #error = null;
  #taken = deferred();
  /** Settled when the server has taken the subscription first; rejects where it refuses, and where it is ended before. @type {Promise<void>} */
  ready = this.#taken.promise;

  /** @package @param {import('./channel.js').Channel} channel @param {Handlers} handlers */
  constructor(channel, handlers) {
    this.#channel = channel;
    this.#handlers = handlers;
  }

  /** The channel's name. */
  get channel() {
    return this.#channel.name;
  }

  /** A cursor behind all that was handed over or waits to be; null while there is none (within a snapshot, say). */
  get cursor() {
    return this.#channel.cursor;
  }

  /** Whether more waits for the iterator than it should. @package */
  get full() {
    return this.#queue.size >= HIGH_WATER;
  }

  /** @package */
  whole = false;

  /**
   * @package @param {import('./wire.js').InChannel} message
   * @param {import('./state.js').StateView | null} view of state, of which only the newest of a key counts
   */
  deliver(message, view) {
    const { type } = message;
    const { onPublication, onGap, onReset, onSynced } = this.#handlers;
    if (type !== 'publication' || onPublication) {
      guarded(/** @type {any} */ ({ publication: onPublication, gap: onGap, reset: onReset, synced: onSynced })[type], message);
      return;
    }
    const place = view ? message.key : this.#count++;
    // Set anew at the end: the queue is in the order of the publications.
    this.#queue.delete(place);
    this.#queue.set(place, message);
    this.#wake();
  }

  #wake() {
    for (const wake of this.#waiting.splice(0)) wake();
  }

  /** @package */
  accepted() {
    this.#taken.resolve();
  }

  /** Nothing comes any more. @package @param {Error} [error] why, where it is not that nobody wants it */
  end(error) {
    if (this.#ended) return;
    this.#ended = true;
    this.#error = error ?? null;
    this.#taken.reject(error ?? new FulmarError('closed', 'The subscription was ended.'));
    if (error) guarded(this.#handlers.onError, error);
    this.#wake();
  }

  /** Ends the subscription. An iterator ends with it, without what waited. */
  unsubscribe() {
    this.#queue.clear();
    this.end();
    this.#channel.leave(this);
  }

  /** @returns {AsyncIterator<Publication, undefined>} of which there should be one only */
  [Symbol.asyncIterator]() {
    if (this.#handlers.onPublication) throw new TypeError('a subscription with onPublication cannot be iterated');
    return {
      next: async () => {
        for (;;) {
          const [first] = this.#queue;
          if (first) {
            this.#queue.delete(first[0]);
            if (this.#queue.size < LOW_WATER) this.#channel.drained();
            return { value: first[1], done: false };
          }
          if (this.#error) throw this.#error;
          if (this.#ended) return { value: undefined, done: true };
          await new Promise((resolve) => this.#waiting.push(resolve));
        }
      },
      return: async () => {
        this.unsubscribe();
        return { value: undefined, done: true };
      },
    };
  }
}
