/**
 * Cursors: positions in a set of channels, in one string (PROTOCOL.md, section 3).
 */

/**
 * @typedef {{channel: string, epoch: string, offset: number, base?: number}} Position
 * @typedef {{hash: string, epoch: string, offset: number, base?: number}} Entry
 */
import { FulmarError } from './errors.js';

export const MAX_CURSOR_BYTES = 2048;
export const MAX_CURSOR_CHANNELS = 32;

const ENTRY = /^([0-9a-f]{16})\.([A-Za-z0-9_-]{1,32})\.([0-9a-z]{1,11})(?:\.([0-9a-z]{1,11}))?$/;

/** @param {string} string @returns {string} 64-bit FNV-1a of its UTF-8, 16 lower-case hex digits */
export function fnv1a64(string) {
  let hash = 0xcbf29ce484222325n;
  for (const byte of new TextEncoder().encode(string)) {
    hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100000001b3n);
  }
  return hash.toString(16).padStart(16, '0');
}

/** @param {Entry} entry */
function formatEntry({ hash, epoch, offset, base }) {
  return `${hash}.${epoch}.${offset.toString(36)}${base === undefined ? '' : `.${base.toString(36)}`}`;
}

/**
 * @param {Entry[]} entries
 * @returns {string | null} null where no cursor can hold them: there are none, or too many
 */
export function formatCursor(entries) {
  if (!entries.length || entries.length > MAX_CURSOR_CHANNELS) return null;
  const cursor = entries.map(formatEntry).join('~');
  return cursor.length > MAX_CURSOR_BYTES ? null : cursor;
}

/** @param {Position[]} positions @returns {string | null} null where no cursor can hold them: there are none, or too many */
export function buildCursor(positions) {
  return formatCursor(positions.map(({ channel, ...rest }) => ({ hash: fnv1a64(channel), ...rest })));
}

/** @param {string} cursor @returns {Entry[]} in the order in which they stand; throws `bad_cursor` where it is none */
export function parseCursor(cursor) {
  const bad = () => new FulmarError('bad_cursor', 'This is no cursor: hand over one that a connection gave, or none.');
  if (cursor.length > MAX_CURSOR_BYTES) throw bad();
  const texts = cursor.split('~');
  if (texts.length > MAX_CURSOR_CHANNELS) throw bad();
  return texts.map((text) => {
    const match = ENTRY.exec(text);
    if (!match) throw bad();
    const [, hash = '', epoch = '', offset = '', base] = match;
    /** @type {Entry} */
    const entry = { hash, epoch, offset: parseInt(offset, 36) };
    if (base !== undefined) entry.base = parseInt(base, 36);
    if (!Number.isSafeInteger(entry.offset) || !Number.isSafeInteger(entry.base ?? 0)) throw bad();
    return entry;
  });
}

/** @param {string} cursor @param {string} channel @returns {Entry | undefined} */
export function entryOf(cursor, channel) {
  const hash = fnv1a64(channel);
  return parseCursor(cursor).find((entry) => entry.hash === hash);
}

/**
 * The entries of both, those of `newer` winning. Only one entry of a cursor may have a base: another one that has
 * is left out, so that its channel is read afresh.
 * @param {string | null} older @param {string | null} newer @returns {string | null}
 */
export function mergeCursors(older, newer) {
  if (!older || !newer) return newer || older;
  /** @type {Map<string, Entry>} */
  const entries = new Map();
  for (const entry of [...parseCursor(newer), ...parseCursor(older)]) {
    const second = entry.base !== undefined && [...entries.values()].some(({ base }) => base !== undefined);
    if (!second && !entries.has(entry.hash)) entries.set(entry.hash, entry);
  }
  return formatCursor([...entries.values()]);
}

/**
 * A cursor that names none of the channels is refused by the server, and one that does not name a channel says
 * nothing about it.
 * @param {string | null} cursor @param {Iterable<string>} channels
 * @returns {string | null} the cursor where it says something about these channels
 */
export function cursorFor(cursor, channels) {
  if (!cursor) return null;
  const named = new Set(parseCursor(cursor).map(({ hash }) => hash));
  for (const channel of channels) if (named.has(fnv1a64(channel))) return cursor;
  return null;
}
