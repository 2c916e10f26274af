/**
 * The `values` frame, which brings the newest values of many keys (PROTOCOL.md, section 9).
 *
 * An entry that has no `offset` brings its channel's low-water offset alone; one that has `part` brings a part of a
 * payload; any other brings a publication.
 */

/**
 * @typedef {{kind: number, index: number, length: number, bytes: Uint8Array}} Part
 * @typedef {{alias: number, low: number, offset: number, time: number, key: string, id?: string, removed: boolean,
 *   data?: unknown, part?: Part}} Change
 * @typedef {Change | {alias: number, low: number, offset?: undefined, time?: undefined}} Entry
 * @typedef {{flags: number, offset: number, time: number, length: number, key: Uint8Array, text: string}} Before what an entry has of
 *   the one before it
 * @typedef {{type: 'values', number: number, entries: Entry[]}} Values
 */
import { HAS_ID, KIND, MAX_INTEGER, REMOVED, join, text, unpackPayload } from './bytes.js';
import { malformed } from './errors.js';

/** The bytes of a part, but the last of its payload, and the most parts of one. */
export const PART = 1000, MAX_PARTS = 16;

/** What stands in an entry by its head; the lower half says how its key does. */
const SAYS_OFFSET = 0x10, SAYS_TIME = 0x20, SAYS_LENGTH = 0x40, SAYS_FLAGS = 0x80;
/** Flags of an entry besides those of a publication, and those that hold for the next one too. */
const OTHER_CHANNEL = 0x20, IS_PART = 0x40, NO_VALUE = 0x80, HOLD_ON = KIND | REMOVED | HAS_ID | IS_PART;
/** How a key stands there. Else, so many bytes less of the one before, times four, and so many instead. */
const HOW = 0xf, COUNTED_ON = 4, AFRESH = 8, SHARING = 12;
const MAX_KEY = 255;

/** @param {number} length of the whole payload @param {number} index @returns {number} 0 where there is no such part */
const sizeOfPart = (length, index) => Math.max(0, Math.min(PART, length - index * PART));

/** @param {import('./bytes.js').Reader} reader behind the frame's type @returns {Values} */
export function readValues(reader) {
  const number = reader.integer();
  if (!number) throw malformed('number');
  /** @type {Entry[]} */
  const entries = [];
  let alias, low = 0;
  /** @type {Before} */
  const before = { flags: 0, offset: 0, time: 0, length: 0, key: new Uint8Array(0), text: '' };
  while (!reader.ended) {
    const head = reader.byte();
    const flags = head & SAYS_FLAGS ? reader.byte() : before.flags;
    before.flags = flags & HOLD_ON;
    if (flags & OTHER_CHANNEL) {
      alias = reader.integer();
      before.offset = low = reader.integer();
    } else if (alias === undefined) throw malformed('alias');
    if (head === SAYS_FLAGS && flags === (OTHER_CHANNEL | NO_VALUE)) entries.push({ alias, low });
    else entries.push(readChange(reader, head, flags, { alias, low }, before));
  }
  return { type: 'values', number, entries };
}

/**
 * @param {import('./bytes.js').Reader} reader @param {number} head @param {number} flags
 * @param {{alias: number, low: number}} place @param {Before} before @returns {Change}
 */
function readChange(reader, head, flags, { alias, low }, before) {
  const kind = flags & KIND;
  const removed = (flags & REMOVED) !== 0;
  if (flags & ~(HOLD_ON | OTHER_CHANNEL) || kind === 3
    || (removed && (flags & (IS_PART | KIND) || head & SAYS_LENGTH))) throw malformed('flags');
  const offset = before.offset += head & SAYS_OFFSET ? reader.signed() : 1;
  if (offset <= low || offset > MAX_INTEGER) throw malformed('offset');
  const time = before.time += head & SAYS_TIME ? reader.signed() : 0;
  if (time < 0 || time > MAX_INTEGER) throw malformed('time');
  if (head & HOW) before.text = text(before.key = readKey(reader, head & HOW, before.key));
  /** @type {Change} */
  const entry = { alias, low, offset, time, key: before.text, removed };
  if (flags & HAS_ID) entry.id = reader.string();
  if (removed) return entry;
  const part = flags & IS_PART ? { index: reader.integer(), length: reader.integer() } : null;
  if (head & SAYS_LENGTH) before.length = reader.integer();
  const bytes = reader.taken(before.length);
  if (!part) entry.data = unpackPayload(kind, bytes);
  else if (part.length > MAX_PARTS * PART || !bytes.length || bytes.length !== sizeOfPart(part.length, part.index)) {
    throw malformed('part');
  } else entry.part = { kind, ...part, bytes };
  return entry;
}

/**
 * @param {import('./bytes.js').Reader} reader @param {number} how it stands there
 * @param {Uint8Array} before the key of the entry before @returns {Uint8Array}
 */
function readKey(reader, how, before) {
  const counted = how === COUNTED_ON;
  const shared = how === AFRESH ? 0 : how === SHARING ? reader.integer() : before.length - (counted ? 1 : how >> 2);
  if (shared < 0 || shared > before.length) throw malformed('key');
  const rest = counted ? Uint8Array.of(/** @type {number} */ (before.at(-1)) + 1)
    : how === AFRESH || how === SHARING ? reader.counted() : reader.taken(how & 3);
  if (shared + rest.length > MAX_KEY) throw malformed('key');
  return join([before.subarray(0, shared), rest]);
}
