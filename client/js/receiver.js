/**
 * The receiving side of state over WebTransport (PROTOCOL.md, section 9): what of the `values` frames is new, what a
 * channel's position is, and what is acknowledged. It reads no clock and sends nothing.
 */
import { ASSEMBLY_BYTES, REMEMBERED_KEYS } from './limits.js';
import { createAcks } from './acks.js';
import { unpackPayload } from './bytes.js';
import { malformed, unreachable } from './errors.js';
import { PART } from './values.js';

/**
 * @typedef {import('./values.js').Entry} Entry
 * @typedef {import('./values.js').Values} Values
 * @typedef {import('./values.js').Change} Change
 * @typedef {import('./wire.js').Message} Message
 * @typedef {import('./wire.js').Publication} Publication
 * @typedef {{type: 'settled', channel: string, epoch: string, offset: number}} Settled where a channel has got to
 * @typedef {{offset: number, bytes: Uint8Array, have: Set<number>}} Assembly
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

/** What is to be remembered would be too much. @param {string} of */
export const noRoom = (of) => unreachable(`There is no room for ${of}.`);

/** @param {Entry[]} entries of a frame @returns {number} the time of the first value, about which it was sent; 0 without any */
const timeOf = (entries) => entries.find((entry) => entry.offset !== undefined)?.time ?? 0;

/**
 * @param {import('./wire.js').Aliases} aliases of the connection
 * @param {(message: Publication | Settled) => void} emit is given each publication that is new, and `settled` for a channel's position
 * @param {{late: number, lost: number, repaired: number}} [counts] kept of what comes by datagram
 */
export function createReceiver(aliases, emit, counts = { late: 0, lost: 0, repaired: 0 }) {
  const acks = createAcks();
  /** @type {Map<string, Channel>} */
  const channels = new Map();
  let reserved = 0, remembered = 0;
  // The highest number of a frame off a datagram, and about when that was sent which showed the last loss.
  let newest = 0, lost = -1;
  // About when the frame was sent that is being taken in; -1 for one off a stream.
  let sent = -1;

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

  /** @param {Channel} channel @param {number} floor */
  function raise(channel, floor) {
    if (floor <= channel.floor) return;
    channel.floor = floor;
    // A key that came out of order may stay until its turn.
    clear(channel, floor, true);
  }

  /** @param {string} name of a channel that is not read any more */
  function forget(name) {
    const channel = channels.get(name);
    if (channel) clear(channel, Infinity);
    channels.delete(name);
  }

  /** Whether this publication says nothing new. @param {Channel} channel @param {string} key @param {number} offset */
  const isKnown = ({ keys }, key, offset) => offset <= (keys.get(key) ?? -1);

  /**
   * @param {Channel} channel @param {Change} entry @param {import('./values.js').Part} part that it brings
   * @returns {Uint8Array | null | undefined} the payload once it is whole; null where there is no room for it
   */
  function assemble(channel, { offset, key }, { index, length, bytes }) {
    if (length <= PART) return bytes;
    const { assemblies } = channel;
    let assembly = assemblies.get(key);
    if (assembly && offset < assembly.offset) return undefined;
    if (offset !== assembly?.offset) {
      drop(channel, key, offset);
      if (reserved + length > ASSEMBLY_BYTES) return null;
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

  /** @param {Channel} channel @param {Change} entry @returns {boolean} false where there was no room for it */
  function takeValue(channel, entry) {
    const { offset, time, key, id, removed, part } = entry;
    if (offset <= channel.floor || isKnown(channel, key, offset)) return true;
    let { data } = entry;
    if (part) {
      const bytes = assemble(channel, entry, part);
      if (!bytes) return bytes === undefined;
      data = unpackPayload(part.kind, bytes);
    }
    drop(channel, key, offset);
    // Set anew at the end: what came first is what the floor reaches first, but for a few.
    if (!channel.keys.delete(key)) remembered++;
    channel.keys.set(key, offset);
    /** @type {Publication} */
    const message = { type: 'publication', channel: channel.name, epoch: channel.epoch, offset, time, key, removed };
    if (id !== undefined) message.id = id;
    if (!removed) message.data = data;
    if (sent > lost && time <= lost) counts.repaired++;
    emit(message);
    if (remembered > REMEMBERED_KEYS) throw noRoom('keys');
    return true;
  }

  /**
   * What can be applied is, even where the rest cannot: to apply it again changes nothing.
   * @param {Values} values @param {boolean} [byStream] whether it came on a stream, behind what its channels began with
   * @returns {Verdict}
   */
  function apply({ entries }, byStream) {
    sent = byStream ? -1 : timeOf(entries);
    /** @type {Verdict} */
    let verdict = 'taken';
    for (const entry of entries) {
      const { alias, low } = entry;
      const place = aliases.get(alias);
      const channel = place && channels.get(place.channel);
      if (!channel) verdict = 'early';
      else if (channel.epoch === place.epoch) {
        const { name, epoch } = channel;
        channel.synced ||= !!byStream;
        if (channel.synced && low > channel.floor) {
          raise(channel, low);
          emit({ type: 'settled', channel: name, epoch, offset: low });
        }
        if (entry.offset !== undefined && !takeValue(channel, entry) && verdict === 'taken') verdict = 'refused';
      }
      // Of another epoch is what a reset has overtaken.
    }
    return verdict;
  }

  return {
    acks,
    forget,
    apply,

    /** What is held: keys remembered, and bytes kept for payloads that are not whole. */
    held: () => ({ keys: remembered, bytes: reserved }),

    /**
     * @param {Message} message off a stream, without its alias
     * @returns {boolean} whether the application has yet to see it: a datagram may have brought something newer
     */
    note(message) {
      if (message.type === 'subscribed') {
        const { channel: name, epoch, offset } = message;
        forget(name);
        channels.set(name, { name, epoch, floor: offset, synced: false, keys: new Map(), assemblies: new Map() });
      } else if (message.type === 'unsubscribed') forget(message.channel);
      else if ('epoch' in message) {
        const { type, epoch, offset } = message;
        const channel = channels.get(message.channel);
        if (!channel) return true;
        if (type === 'gap' || type === 'reset') {
          clear(channel, channel.epoch === epoch ? offset : Infinity);
          Object.assign(channel, { epoch, floor: offset, synced: false });
        } else if (type === 'synced') {
          channel.synced = true;
          raise(channel, offset);
        } else if (type === 'publication' && channel.epoch === epoch) {
          if (isKnown(channel, message.key, offset)) return false;
          // Up to `synced` the stream is in the order of the offsets: of what lies below, it has brought what counts.
          if (!channel.synced) raise(channel, offset);
        }
      }
      return true;
    },

    /** To be called once for each frame off a datagram, before it is taken in. @param {Values} values */
    arrived({ number, entries }) {
      const ahead = number - newest;
      if (ahead > 1) {
        counts.lost += ahead - 1;
        lost = timeOf(entries);
      } else if (ahead < 0 && !acks.has(number)) {
        counts.late++;
        counts.lost--;
      }
      newest = Math.max(newest, number);
    },

    /** @param {Values} values off a datagram @param {number} now @returns {Verdict} */
    datagram(values, now) {
      const verdict = acks.has(values.number) ? 'taken' : apply(values);
      if (verdict === 'taken') acks.take(values.number, now);
      return verdict;
    },
  };
}
