/**
 * Cursors: positions in a set of channels, in one string (PROTOCOL.md, section 3).
 */

/**
 * @typedef {{channel: string, epoch: string, offset: number, base?: number}} Position
 * @typedef {{hash: string, epoch: string, offset: number, base?: number}} Entry
 */
import { MAX_CURSOR_BYTES, MAX_CURSOR_CHANNELS, MAX_INTEGER } from './limits.js';
import { FulmarError } from './errors.js';

const ENTRY = /^([0-9a-f]{16})\.([\w-]{1,32})\.([0-9a-z]{1,11})(?:\.([0-9a-z]{1,11}))?$/;

/** @param {string} string @returns {string} 64-bit FNV-1a of its UTF-8, 16 lower-case hex digits */
export function fnv1a64(string) {
  let hash = 0xcbf29ce484222325n;
  for (const byte of new TextEncoder().encode(string)) {
    hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100000001b3n);
  }
  return hash.toString(16).padStart(16, '0');
}

/**
 * @param {Entry[]} entries of which only one may have a base: another one that has is left out, so that its channel is read afresh
 * @returns {string | null} null where no cursor can hold them: there are none, or too many
 */
export function formatCursor(entries) {
  let bases = 0;
  const cursor = entries.filter(({ base }) => base === undefined || !bases++).map(({ hash, epoch, offset, base }) => (
    [hash, epoch, offset.toString(36), base?.toString(36) ?? []].flat().join('.'))).join('~');
  return cursor && entries.length <= MAX_CURSOR_CHANNELS && cursor.length <= MAX_CURSOR_BYTES ? cursor : null;
}

/** @param {Position[]} positions @returns {string | null} null where no cursor can hold them: there are none, or too many */
export function buildCursor(positions) {
  return formatCursor(positions.map(({ channel, ...rest }) => ({ hash: fnv1a64(channel), ...rest })));
}

/** @param {string} cursor @returns {Entry[]} in the order in which they stand; throws `bad_cursor` where it is none */
export function parseCursor(cursor) {
  const entries = cursor.split('~', MAX_CURSOR_CHANNELS + 1).map((text) => {
    const [, hash = '', epoch = '', offset = '', base] = ENTRY.exec(text) ?? [];
    /** @type {Entry} */
    const entry = { hash, epoch, offset: parseInt(offset, 36) };
    if (base) entry.base = parseInt(base, 36);
    return entry;
  });
  const isBad = entries.some(({ offset, base = 0 }) => !(Math.max(offset, base) <= MAX_INTEGER));
  if (isBad || entries.length > MAX_CURSOR_CHANNELS || cursor.length > MAX_CURSOR_BYTES) {
    throw new FulmarError('bad_cursor', 'This is no cursor: hand over one that a connection gave.');
  }
  return entries;
}

/** @param {string} cursor @param {string} channel @returns {Entry | undefined} */
export function entryOf(cursor, channel) {
  const hash = fnv1a64(channel);
  return parseCursor(cursor).find((entry) => entry.hash === hash);
}

/**
 * Where a channel's subscription goes on.
 * @param {string} channel @param {import('./connection.js').From} from a cursor that does not name the channel is as none
 * @returns {Entry | undefined}
 */
export function entryFrom(channel, { after, position }) {
  return position ? { hash: fnv1a64(channel), ...position } : after ? entryOf(after, channel) : undefined;
}
