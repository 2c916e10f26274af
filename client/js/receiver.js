/**
 * What a connection has read of its channels: where it has got to in each of them (PROTOCOL.md, sections 2 and 3), and over
 * WebTransport what of the `values` frames is new (section 9). It reads no clock and sends nothing.
 */
import { ASSEMBLY_BYTES, REMEMBERED_KEYS } from './limits.js';
import { unpackPayload } from './bytes.js';
import { fnv1a64, formatCursor } from './cursor.js';
import { malformed, unreachable } from './errors.js';
import { PART } from './values.js';

/**
 * @typedef {import('./cursor.js').Entry} Entry
 * @typedef {import('./values.js').Values} Values
 * @typedef {import('./values.js').Change} Change
 * @typedef {import('./wire.js').InChannel} InChannel
 * @typedef {import('./wire.js').Subscribed} Subscribed
 * @typedef {{offset: number, bytes: Uint8Array, have: Set<number>}} Assembly
 *
 * @typedef {object} Channel that is subscribed to, or about to be
 * @property {string} name
 * @property {string} hash
 * @property {string} epoch none until its subscription has been answered: what comes before is of another
 * @property {number} offset its position: what lies at or below it is void, for it is known or was replaced
 * @property {Entry | null} [from] where to go on from in place of that; null within a snapshot, where a position means nothing
 * @property {boolean} synced whether its low-water offsets mean something
 * @property {Map<string, number>} keys offsets above the position, in the order in which they came
 * @property {Map<string, Assembly>} assemblies by key; they lie above the position and above the key's offset
 */

/** @param {Values} values @returns {number} the time of the first value, about which it was sent; 0 without any */
const timeOf = ({ entries }) => entries.find(({ time }) => time)?.time ?? 0;

/**
 * @param {(message: InChannel) => void} emit is given each message that is new
 * @param {{late: number, lost: number, repaired: number}} counts kept of what comes by datagram
 */
export function createReceiver(emit, counts) {
  /** @type {Map<string, Channel>} */
  const channels = new Map();
  /** What the aliases stand for. @type {Map<number, {channel: string, epoch: string}>} */
  const aliases = new Map();
  let reserved = 0, remembered = 0;
  // The highest number of a frame off a datagram, and about when that was sent which showed the last loss.
  let newest = 0, lost = -1;
  // About when the frame was sent that is being taken in, -1 for one off a stream; and whether all of it could be so far.
  let sent = -1, isWhole = true;

  /**
   * Parts of this key up to an offset are void.
   * @param {Channel} channel @param {string} key @param {number} offset
   */
  function drop({ assemblies }, key, offset) {
    const assembly = assemblies.get(key);
    if (!assembly || assembly.offset > offset) return;
    assemblies.delete(key);
    reserved -= assembly.bytes.length;
  }

  /**
   * Forgets all up to an offset, in whichever order it came.
   * @param {Channel} channel @param {number} upTo @param {boolean} [inOrder] only up to the first key that lies above
   */
  function clear(channel, upTo, inOrder) {
    for (const [key, offset] of channel.keys) {
      if (offset <= upTo) {
        channel.keys.delete(key);
        remembered--;
      } else if (inOrder) break;
    }
    for (const key of channel.assemblies.keys()) drop(channel, key, upTo);
  }

  /** Moves the position, but never back. @param {Channel} channel @param {number} offset */
  function raise(channel, offset) {
    if (offset <= channel.offset) return;
    channel.offset = offset;
    // A key that came out of order may stay until its turn.
    clear(channel, offset, true);
  }

  /** Whether this publication says nothing new. @param {Channel} channel @param {{key?: string, offset: number}} of */
  const isKnown = ({ keys }, { key, offset }) => offset <= (keys.get(/** @type {string} */ (key)) ?? -1);

  /**
   * @param {Channel} channel @param {Change} entry @param {import('./values.js').Part} part that it brings
   * @returns {Uint8Array | undefined} the payload once it is whole
   */
  function assemble(channel, { offset, key }, { index, length, bytes }) {
    if (length <= PART) return bytes;
    const { assemblies } = channel;
    let assembly = assemblies.get(key);
    if (assembly && offset < assembly.offset) return undefined;
    if (offset !== assembly?.offset) {
      drop(channel, key, offset);
      if (reserved + length > ASSEMBLY_BYTES) {
        if (sent < 0) throw unreachable('There is no room for parts.');
        isWhole = false;
        return undefined;
      }
      reserved += length;
      assembly = { offset, bytes: new Uint8Array(length), have: new Set() };
      assemblies.set(key, assembly);
    }
    if (length !== assembly.bytes.length) throw malformed('length');
    assembly.have.add(index);
    assembly.bytes.set(bytes, index * PART);
    if (assembly.have.size * PART < length) return undefined;
    drop(channel, key, offset);
    return assembly.bytes;
  }

  /** @param {Channel} channel @param {Change} entry */
  function takeValue(channel, entry) {
    const { alias, low, part, ...value } = entry;
    const { offset, time, key } = value;
    if (offset <= channel.offset || isKnown(channel, entry)) return;
    if (part) {
      const bytes = assemble(channel, entry, part);
      if (!bytes) return;
      value.data = unpackPayload(part.kind, bytes);
    }
    drop(channel, key, offset);
    // Set anew at the end: what came first is what the position reaches first, but for a few.
    if (!channel.keys.delete(key)) remembered++;
    channel.keys.set(key, offset);
    if (sent > lost && time <= lost) counts.repaired++;
    emit({ type: 'publication', channel: channel.name, epoch: channel.epoch, ...value });
    if (remembered > REMEMBERED_KEYS) throw unreachable('There is no room for keys.');
  }

  /** @param {string} name of a channel that is not read any more @returns {boolean} whether it was */
  function forget(name) {
    const channel = channels.get(name);
    if (channel) clear(channel, Infinity);
    return channels.delete(name);
  }

  /**
   * A subscription begins, or is asked for: then this stays the channel's position until the answer, so that a connection which is
   * lost before it loses nothing.
   * @param {string} name @param {Entry | null} [from] @param {{epoch?: string, offset?: number}} [at]
   */
  function begin(name, from, { epoch = '', offset = 0 } = {}) {
    forget(name);
    channels.set(name, { name, hash: fnv1a64(name), epoch, offset, from, synced: false, keys: new Map(), assemblies: new Map() });
  }

  /** @param {string} name @returns {Entry | null} null while it has no position */
  function entry(name) {
    const channel = channels.get(name);
    if (!channel?.epoch || channel.from !== undefined) return channel?.from ?? null;
    const { hash, epoch, offset } = channel;
    return { hash, epoch, offset };
  }

  return {
    channels,
    begin,
    entry,
    forget,

    /** @returns {string | null} */
    cursor: () => formatCursor([...channels.keys()].flatMap((name) => entry(name) ?? [])),

    /** What is held: keys remembered, and bytes kept for payloads that are not whole. */
    held: () => ({ keys: remembered, bytes: reserved }),

    /**
     * Learns aliases from `subscribed`, `gap` and `reset`, and resolves what bears an alias only.
     * @param {import('./wire.js').Frame | import('./wire.js').Message} frame
     * @returns {import('./wire.js').Message | null} the message without its alias; null if the alias is not known yet
     */
    resolve(frame) {
      const { alias, ...message } = /** @type {Partial<import('./wire.js').Place> & {alias?: number}} */ (frame);
      if (alias === undefined) return /** @type {import('./wire.js').Message} */ (frame);
      const { channel, epoch } = message;
      if (channel && epoch) aliases.set(alias, { channel, epoch });
      const place = aliases.get(alias);
      return place ? /** @type {any} */ ({ ...message, ...place }) : null;
    },

    /**
     * @param {InChannel | Subscribed} message @param {boolean} [datagram] whether it came in one
     * @returns {boolean} false where its channel is about to be there: in a datagram it may come before it
     */
    take(message, datagram) {
      const { type, epoch, offset } = message;
      const channel = channels.get(message.channel);
      if (type === 'subscribed') {
        const from = channel?.from;
        // The gap or the reset that says so may not arrive: until it does, the next one is to ask from here too.
        // A subscription that goes on with a snapshot has no position of its own before `synced`.
        begin(message.channel, message.recovered === false ? from : from?.base === undefined ? undefined : null, message);
        return true;
      }
      // Of one that is not read any more nothing is kept for whoever reads it next.
      if (!channel?.epoch) return !channel;
      // A datagram may have brought something newer.
      const isNews = !isKnown(channel, message);
      // A datagram can have overtaken others. A stream is in the order of the offsets: of what lies below, it has brought what counts.
      // Before it is handed over: who takes a cursor then, or ends the connection, goes on behind it.
      if (type === 'publication' && !datagram && channel.epoch === epoch) {
        raise(channel, offset);
        // Signals that are forgotten are told of by no gap. Within a snapshot it stays null.
        channel.from &&= undefined;
      }
      if (isNews) emit(message);
      if (type === 'publication') return true;
      clear(channel, channel.epoch === epoch ? offset : Infinity);
      Object.assign(channel, { epoch, offset, from: type === 'reset' ? null : undefined, synced: type === 'synced' });
      return true;
    },

    /**
     * What can be applied is, even where the rest cannot: to apply it again changes nothing.
     * @param {Values} values @param {boolean} [datagram] else it came on a stream, behind what its channels began with
     * @returns {boolean} false where it is worth another try, and not to be acknowledged: it names a channel that is not there yet,
     *   or there was no room for all of it
     */
    apply(values, datagram) {
      sent = datagram ? timeOf(values) : -1;
      isWhole = true;
      for (const entry of values.entries) {
        const place = aliases.get(entry.alias);
        if (!place && !datagram) throw malformed('alias');
        const channel = place && channels.get(place.channel);
        if (!place || !channel?.epoch) isWhole = false;
        else if (channel.epoch === place.epoch) {
          channel.synced ||= !datagram;
          if (channel.synced) raise(channel, entry.low);
          if (entry.offset !== undefined) takeValue(channel, entry);
        }
        // Of another epoch is what a reset has overtaken.
      }
      return isWhole;
    },

    /** To be called once for each frame off a datagram, before it is taken in. @param {Values} values @param {boolean} isTaken it was already */
    arrived(values, isTaken) {
      const { number } = values;
      const ahead = number - newest;
      if (ahead > 1) {
        counts.lost += ahead - 1;
        lost = timeOf(values);
      } else if (ahead < 0 && !isTaken) {
        counts.late++;
        counts.lost--;
      }
      newest = Math.max(newest, number);
    },
  };
}
/** @typedef {ReturnType<typeof createReceiver>} Receiver */
