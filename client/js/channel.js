/**
 * A channel as a client reads it, over whichever connection there is: what was handed over once is not handed over
 * again when the next connection goes on from before it.
 *
 * @typedef {import('./wire.js').InChannel} Message
 * @typedef {import('./cursor.js').Entry} Entry
 * @typedef {import('./subscription.js').Subscription} Subscription
 * @typedef {import('./fulmar.js').AnyConnection} AnyConnection
 */
import { formatCursor } from './cursor.js';
import { StateView, keepAhead, takeAhead } from './state.js';

/**
 * @typedef {object} Owner what a channel asks of its client
 * @property {(channel: Channel) => void} pause to stop reading it for a while, from its present position
 * @property {(channel: Channel) => void} resume
 * @property {(channel: Channel) => void} drop to stop reading it
 * @property {(message: Message) => void} gap some of it was missed
 */

export class Channel {
  name;
  /** @type {Set<Subscription>} */
  subscriptions = new Set();
  /** @type {Set<import('./live.js').LiveState>} */
  live = new Set();
  /** The newest values, once it has shown that it is one of state. @type {StateView | null} */
  view = null;
  /** Not read for now, because an iterator has enough to do. */
  paused = false;
  /** About to be read again. */
  resuming = false;
  /** Why the server does not let it be read. @type {Error | null} */
  refused = null;
  /** Whether the server has taken it once. */
  known = false;
  /** Gaps told since the beginning. */
  gaps = 0;
  /** Settled when what was asked of its connection has been answered. @type {Promise<unknown>} */
  busy = Promise.resolve();
  #owner;
  /** The connection whose messages count: the latest that has told anything of the channel. @type {AnyConnection | null} */
  #source = null;
  /** Where to go on while there is no source. @type {Entry | null} */
  #entry;
  /** What lies at or below it, in its epoch, came over the connection before. @type {Entry | null} */
  #floor = null;
  /** The serial of the latest connection that has told anything; one before it has no say even when that one is gone. */
  #latest = 0;
  /** Of the latest reset. @type {string | undefined} */
  #epoch;
  /** What has overtaken the reset of its epoch, on this connection: datagrams do. @type {import('./state.js').Ahead} */
  #ahead = new Map();
  /** Whether the connection before was still heard when this one said its first word. */
  #overlapped = false;

  /** @param {string} name @param {Owner} owner @param {Entry | null} entry where to begin; null: from now on */
  constructor(name, owner, entry) {
    this.name = name;
    this.#owner = owner;
    this.#entry = entry;
  }

  /** Where to go on; null where there is no position, and reading begins afresh. @returns {Entry | null} */
  get entry() {
    return this.#source ? this.#source.entry(this.name) : this.#entry;
  }

  get cursor() {
    const { entry } = this;
    return entry && formatCursor([entry]);
  }

  /** It is one of state: a value that comes by datagram may be here before the `reset` with which its stream begins. */
  holds() {
    this.view ??= new StateView();
  }

  /** What to ask of a connection. @returns {import('./connection.js').From} */
  get from() {
    const { entry } = this;
    // Whole state begins with a snapshot: it may have been lost behind the answer that precedes it.
    if (!entry || (this.live.size && !this.view?.synced(this.name))) return {};
    return { after: formatCursor([entry]) };
  }

  /**
   * From its first word on, a new connection is the one that counts, and what the one before still says is void.
   * @param {AnyConnection} connection @returns {boolean} whether it counts
   */
  hear(connection) {
    if (connection === this.#source) return true;
    if (this.paused || connection.serial < this.#latest) return false;
    this.#latest = connection.serial;
    this.#floor = this.entry;
    this.#overlapped = this.#source !== null;
    this.#source = connection;
    this.#ahead.clear();
    return true;
  }

  /** This connection tells nothing of the channel any more. @param {AnyConnection} connection */
  lose(connection) {
    if (connection !== this.#source) return;
    this.#entry = this.entry;
    this.#source = null;
  }

  /** No position any more: it is read afresh. */
  forget() {
    this.#entry = this.#floor = null;
  }

  /** @param {AnyConnection} connection @param {Message} message */
  take(connection, message) {
    if (!this.hear(connection)) return;
    const { type, epoch, offset } = message;
    const floor = this.#floor;
    const isPast = floor?.epoch === epoch && offset <= floor.offset;
    if (type === 'publication') {
      if (epoch !== this.#epoch) keepAhead(this.#ahead, message);
      // Of another epoch it is from before the gap that the connection before has told already, or before a reset.
      if (isPast || (floor && floor.epoch !== epoch)) return;
    } else if (type !== 'synced') {
      // What was lost behind the position that was asked from came over the connection before, which went on meanwhile.
      if (type === 'gap' && isPast && this.#overlapped) return;
      this.#floor = null;
      if (type === 'reset') {
        this.#epoch = epoch;
        this.holds();
      } else {
        this.gaps++;
        this.#owner.gap(message);
      }
    }
    // What a snapshot brings is told again to those who were told to forget; else what is older, or known, is not.
    const { view } = this;
    if (view && !this.#see(view, message) && type === 'publication' && view.synced(this.name)) return;
    for (const subscription of this.subscriptions) subscription.deliver(message, !!view);
    // The snapshot does not bring again what was sent by then.
    if (type === 'reset') {
      for (const one of takeAhead(this.#ahead, message)) this.take(connection, one);
    }
    // Behind the messages that came with this one: the connection's position is then behind what was handed over.
    if (!view && this.#isFull()) queueMicrotask(() => !this.paused && this.#isFull() && this.#owner.pause(this));
  }

  #isFull() {
    return [...this.subscriptions].some(({ full }) => full);
  }

  /** @param {StateView} view @param {Message} message @returns {boolean} whether it changed what is held */
  #see(view, message) {
    const changed = view.apply(message, (key) => {
      for (const state of this.live) state.change(key, view.held(this.name, key));
    });
    if (message.type === 'synced') for (const state of this.live) state.sync();
    return changed;
  }

  #consumers() {
    return [...this.subscriptions, ...this.live];
  }

  /** The server has taken the subscription. */
  accepted() {
    this.known = true;
    for (const consumer of this.#consumers()) consumer.accepted();
  }

  /** Nothing comes any more. @param {Error} [error] */
  end(error) {
    this.refused = error ?? null;
    for (const consumer of this.#consumers()) consumer.end(error);
  }

  /** An iterator has caught up. */
  drained() {
    if (this.paused && !this.#isFull()) this.#owner.resume(this);
  }

  /** @param {Subscription | import('./live.js').LiveState} consumer */
  leave(consumer) {
    this.subscriptions.delete(/** @type {any} */ (consumer));
    this.live.delete(/** @type {any} */ (consumer));
    if (this.#consumers().length) this.drained();
    else this.#owner.drop(this);
  }
}
