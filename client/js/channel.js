/**
 * A channel as a client reads it, over whichever connection there is: what was handed over once is not handed over
 * again when the next connection goes on from before it.
 *
 * @typedef {import('./wire.js').InChannel} Message
 * @typedef {import('./cursor.js').Entry} Entry
 * @typedef {import('./subscription.js').Subscription | import('./live.js').LiveState} Consumer
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
  /** @type {Set<Consumer>} */
  #consumers = new Set();
  /** The newest values, once it has shown that it is one of state. @type {StateView | null} */
  view = null;
  /** Not read for now, because an iterator has enough to do. */
  paused = false;
  /** Whether the server has taken it once. */
  #known = false;
  #owner;
  /** The connection whose messages count: the latest that has told anything of the channel. @type {AnyConnection | null} */
  #source = null;
  /** Where to go on while there is no source, or it was refused the channel for now. @type {Entry | null} */
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
    return this.#source?.has(this.name) ? this.#source.entry(this.name) : this.#entry;
  }

  get cursor() {
    const { entry } = this;
    return entry && formatCursor([entry]);
  }

  /** Whether all values of state are known. */
  get synced() {
    return !!this.view?.synced(this.name);
  }

  /** Whether an iterator has enough to do. Of state only the newest values wait for it. */
  get full() {
    return !this.view && [...this.#consumers].some(({ full }) => full);
  }

  /** What to ask of a connection. @returns {import('./connection.js').From} */
  get from() {
    const { entry } = this;
    // Whole state begins with a snapshot: it may have been lost behind the answer that precedes it.
    if (!entry || (!this.synced && [...this.#consumers].some(({ whole }) => whole))) return {};
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
    this.#entry = this.#floor = this.entry;
    this.#overlapped = !!this.#source;
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
      if (epoch !== this.#epoch) {
        keepAhead(this.#ahead, message);
        if (this.view) return;
      }
      // Of another epoch it is from before the gap that the connection before has told already, or before a reset.
      if (isPast || (floor && floor.epoch !== epoch)) return;
    } else if (type !== 'synced') {
      // What was lost behind the position that was asked from came over the connection before, which went on meanwhile.
      if (type === 'gap' && isPast && this.#overlapped) return;
      this.#floor = null;
      if (type === 'reset') {
        this.#epoch = epoch;
        this.view ??= new StateView();
      } else this.#owner.gap(message);
    }
    // What a snapshot brings is told again to those who were told to forget; else what is older, or known, is not.
    const { view } = this;
    const isNews = !!view?.apply(message);
    if (type === 'publication' && this.synced && !isNews) return;
    for (const consumer of this.#consumers) consumer.deliver(message, view, isNews);
    // The snapshot does not bring again what was sent by then.
    if (type === 'reset') {
      for (const one of takeAhead(this.#ahead, message)) this.take(connection, one);
    }
    // Behind the messages that came with this one: the connection's position is then behind what was handed over.
    if (this.full) queueMicrotask(() => !this.paused && this.full && this.#owner.pause(this));
  }

  /** Tells a newcomer what the others know. @template {Consumer} T @param {T} consumer @returns {T} */
  add(consumer) {
    const { name: channel, view, entry } = this;
    for (const [key, value] of view?.entries(channel) ?? []) {
      consumer.deliver({ type: 'publication', channel, key, ...value }, view, true);
    }
    if (this.synced && entry) consumer.deliver({ type: 'synced', channel, epoch: entry.epoch, offset: entry.offset }, view, false);
    this.#consumers.add(consumer);
    if (this.#known) consumer.accepted();
    return consumer;
  }

  /** The server has taken the subscription. */
  accepted() {
    this.#known = true;
    for (const consumer of this.#consumers) consumer.accepted();
  }

  /** Nothing comes any more. @param {Error} [error] */
  end(error) {
    for (const consumer of this.#consumers) consumer.end(error);
    this.#consumers.clear();
  }

  /** An iterator has caught up. */
  drained() {
    if (this.paused && !this.full) this.#owner.resume(this);
  }

  /** @param {Consumer} consumer */
  leave(consumer) {
    this.#consumers.delete(consumer);
    if (this.#consumers.size) this.drained();
    else this.#owner.drop(this);
  }
}
