/**
 * The receiving side of state over WebTransport (PROTOCOL.md, section 9): what of the `values` frames is new, what a
 * channel's position is, and what is acknowledged. It reads no clock and sends nothing.
 */
import { Acknowledgements } from './acks.js';
import { unpackPayload } from './bytes.js';
import { FulmarError, malformed } from './errors.js';
import { PART } from './values.js';

/**
 * @typedef {import('./values.js').Entry} Entry
 * @typedef {import('./values.js').Values} Values
 * @typedef {import('./values.js').Change} Change
 * @typedef {import('./wire.js').Message} Message
 * @typedef {import('./wire.js').Publication} Publication
 * @typedef {{type: 'settled', channel: string, epoch: string, offset: number}} Settled where a channel has got to
 * @typedef {{offset: number, bytes: Uint8Array, have: number, missing: number}} Assembly
 *
 * @typedef {object} Channel of a subscription that was answered
 * @property {string} name
 * @property {string} epoch
 * @property {number} floor what lies at or below it is void: it is known, or was replaced
 * @property {boolean} synced whether its low-water offsets mean something
 * @property {Map<string, number>} keys offsets above the floor, in the order in which they came
 * @property {Map<string, Assembly>} assemblies by key; they lie above the floor and above the key's offset
 *
 * @typedef {'taken' | 'early' | 'refused'} Verdict on a frame. `early`: it names a channel that is not there yet, so it is
 *   worth another try when one is; `refused`: there was no room for all of it. Neither is acknowledged
 */

/** Payloads that are coming together in parts, in bytes, over all channels. */
export const ASSEMBLY_BYTES = 256 * 1024;
/** Keys remembered because they changed above their channel's floor, over all channels. */
export const REMEMBERED_KEYS = 1 << 18;

/** @param {Channel} channel @param {string} key @returns {number} below all offsets where the key has none */
const offsetOf = ({ keys }, key) => keys.get(key) ?? -1;

/** @param {Entry[]} entries of a frame @returns {number} the time of the first value, about which it was sent; 0 without any */
const timeOf = (entries) => {
  for (const entry of entries) if (entry.offset !== undefined) return entry.time;
  return 0;
};

export class Receiver {
  acks = new Acknowledgements();
  #aliases;
  #emit;
  /** @type {Map<string, Channel>} */
  #channels = new Map();
  #reserved = 0;
  #remembered = 0;
  #counts;
  /** The highest number of a frame off a datagram, and about when that was sent which showed the last loss. */
  #newest = 0;
  #lost = -1;
  /** About when the frame was sent that is being taken in; -1 for one off a stream. */
  #sent = -1;

  /**
   * @param {import('./wire.js').AliasTable} aliases of the connection
   * @param {(message: Publication | Settled) => void} emit is given each publication that is new, and `settled` for a channel's position
   * @param {{late: number, lost: number, repaired: number}} [counts] kept of what comes by datagram
   */
  constructor(aliases, emit, counts = { late: 0, lost: 0, repaired: 0 }) {
    this.#aliases = aliases;
    this.#emit = emit;
    this.#counts = counts;
  }

  /** What is held: keys remembered, and bytes kept for payloads that are not whole. */
  get held() {
    return { keys: this.#remembered, bytes: this.#reserved };
  }

  /**
   * @param {Message} message off a stream, without its alias
   * @returns {boolean} whether the application has yet to see it: a datagram may have brought something newer
   */
  note(message) {
    switch (message.type) {
      case 'subscribed': {
        const { channel: name, epoch, offset } = message;
        this.forget(name);
        this.#channels.set(name, { name, epoch, floor: offset, synced: false, keys: new Map(), assemblies: new Map() });
        return true;
      }
      case 'unsubscribed':
        this.forget(message.channel);
        return true;
      case 'gap':
      case 'reset':
      case 'synced':
      case 'publication': {
        const channel = this.#channels.get(message.channel);
        return !channel || this.#noteIn(channel, message);
      }
      default: return true;
    }
  }

  /** @param {Channel} channel @param {import('./wire.js').InChannel} message @returns {boolean} as `note` */
  #noteIn(channel, message) {
    const { epoch, offset } = message;
    switch (message.type) {
      case 'gap':
      case 'reset':
        this.#clear(channel, channel.epoch === epoch ? offset : Infinity);
        Object.assign(channel, { epoch, floor: offset, synced: false });
        break;
      case 'synced':
        channel.synced = true;
        this.#raise(channel, offset);
        break;
      case 'publication':
        if (channel.epoch !== epoch) break;
        if (offset <= offsetOf(channel, message.key)) return false;
        // Up to `synced` the stream is in the order of the offsets: of what lies below, it has brought what counts.
        if (!channel.synced) this.#raise(channel, offset);
    }
    return true;
  }

  /** @param {string} name of a channel that is not read any more */
  forget(name) {
    const channel = this.#channels.get(name);
    if (channel) this.#clear(channel, Infinity);
    this.#channels.delete(name);
  }

  /** To be called once for each frame off a datagram, before it is taken in. @param {Values} values */
  arrived({ number, entries }) {
    const ahead = number - this.#newest;
    if (ahead > 1) {
      this.#counts.lost += ahead - 1;
      this.#lost = timeOf(entries);
    } else if (ahead < 0 && !this.acks.has(number)) {
      this.#counts.late++;
      this.#counts.lost--;
    }
    this.#newest = Math.max(this.#newest, number);
  }

  /** @param {Values} values off a datagram @param {number} now @returns {Verdict} */
  datagram(values, now) {
    const verdict = this.acks.has(values.number) ? 'taken' : this.apply(values);
    if (verdict === 'taken') this.acks.take(values.number, now);
    return verdict;
  }

  /**
   * What can be applied is, even where the rest cannot: to apply it again changes nothing.
   * @param {Values} values @param {boolean} [byStream] whether it came on a stream, behind what its channels began with
   * @returns {Verdict}
   */
  apply({ entries }, byStream = false) {
    this.#sent = byStream ? -1 : timeOf(entries);
    /** @type {Verdict} */
    let verdict = 'taken';
    for (const entry of entries) {
      const place = this.#aliases.get(entry.alias);
      const channel = place && this.#channels.get(place.channel);
      if (!place || !channel) verdict = 'early';
      else if (channel.epoch === place.epoch) {
        channel.synced ||= byStream;
        this.#settle(channel, entry.low);
        if (entry.offset !== undefined && !this.#value(channel, entry) && verdict === 'taken') verdict = 'refused';
      }
      // Of another epoch is what a reset has overtaken.
    }
    return verdict;
  }

  /** @param {Channel} channel @param {number} low */
  #settle(channel, low) {
    if (!channel.synced || low <= channel.floor) return;
    this.#raise(channel, low);
    this.#emit({ type: 'settled', channel: channel.name, epoch: channel.epoch, offset: low });
  }

  /** @param {Channel} channel @param {Change} entry @returns {boolean} false where there was no room for it */
  #value(channel, entry) {
    const { offset, time, key, id, removed, part } = entry;
    if (offset <= channel.floor || offset <= offsetOf(channel, key)) return true;
    let { data } = entry;
    if (part) {
      const bytes = this.#assemble(channel, entry, part);
      if (!bytes) return bytes === undefined;
      data = unpackPayload(part.kind, bytes);
    }
    this.#drop(channel.assemblies, key, offset);
    // Set anew at the end: what came first is what the floor reaches first, but for a few.
    if (!channel.keys.delete(key)) this.#remembered++;
    channel.keys.set(key, offset);
    /** @type {Publication} */
    const message = { type: 'publication', channel: channel.name, epoch: channel.epoch, offset, time, key, removed };
    if (id !== undefined) message.id = id;
    if (!removed) message.data = data;
    if (this.#sent > this.#lost && time <= this.#lost) this.#counts.repaired++;
    this.#emit(message);
    if (this.#remembered > REMEMBERED_KEYS) {
      throw new FulmarError('unreachable', 'More has changed than can be remembered.');
    }
    return true;
  }

  /**
   * @param {Channel} channel @param {Change} entry @param {import('./values.js').Part} part that it brings
   * @returns {Uint8Array | null | undefined} the payload once it is whole; null where there is no room for it
   */
  #assemble({ assemblies }, { offset, key }, { index, length, bytes }) {
    if (length <= PART) return bytes;
    let assembly = assemblies.get(key);
    if (assembly && offset < assembly.offset) return undefined;
    if (!assembly || offset > assembly.offset) {
      this.#drop(assemblies, key, offset);
      if (this.#reserved + length > ASSEMBLY_BYTES) return null;
      this.#reserved += length;
      assembly = { offset, bytes: new Uint8Array(length), have: 0, missing: Math.ceil(length / PART) };
      assemblies.set(key, assembly);
    }
    if (length !== assembly.bytes.length) throw malformed('parts of one payload disagree about its length');
    if (assembly.have & (1 << index)) return undefined;
    assembly.have |= 1 << index;
    assembly.bytes.set(bytes, index * PART);
    if (--assembly.missing) return undefined;
    this.#drop(assemblies, key, offset);
    return assembly.bytes;
  }

  /**
   * Parts of this key up to an offset are void.
   * @param {Map<string, Assembly>} assemblies @param {string} key @param {number} offset
   */
  #drop(assemblies, key, offset) {
    const assembly = assemblies.get(key);
    if (!assembly || assembly.offset > offset) return;
    assemblies.delete(key);
    this.#reserved -= assembly.bytes.length;
  }

  /** @param {Channel} channel @param {number} floor */
  #raise(channel, floor) {
    if (floor <= channel.floor) return;
    channel.floor = floor;
    this.#release(channel);
  }

  /**
   * Lets go of what has come to lie below the floor; a key that came out of order may stay until its turn.
   * @param {Channel} channel
   */
  #release(channel) {
    const { floor, keys, assemblies } = channel;
    for (const [key, offset] of keys) {
      if (offset > floor) break;
      keys.delete(key);
      this.#remembered--;
    }
    for (const key of assemblies.keys()) this.#drop(assemblies, key, floor);
  }

  /** Forgets all up to an offset, in whichever order it came. @param {Channel} channel @param {number} upTo */
  #clear({ keys, assemblies }, upTo) {
    for (const [key, offset] of keys) {
      if (offset > upTo) continue;
      keys.delete(key);
      this.#remembered--;
    }
    for (const key of assemblies.keys()) this.#drop(assemblies, key, upTo);
  }
}
