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
 * @typedef {Change | {alias: number, low: number, offset?: undefined}} Entry
 * @typedef {{time: number, length: number}} Like
 * @typedef {{offset: number, like: Like | null}} Before what an entry has of the one before it: its offset, and its time
 *   and length where both stood there
 * @typedef {{type: 'values', number: number, time: number, entries: Entry[]}} Values
 */
import { HAS_ID, HAS_KEY, KIND, MAX_INTEGER, REMOVED, unpackPayload } from './bytes.js';
import { malformed } from './errors.js';

/** The bytes of a part, but the last of its payload, and the most parts of one. */
export const PART = 1000, MAX_PARTS = 16;

/** Flags of an entry besides those of a publication. */
const OTHER_CHANNEL = 0x20, IS_PART = 0x40, NO_VALUE = 0x80, LIKE_BEFORE = 0x80;

/** @param {number} length of the whole payload @param {number} index @returns {number} 0 where there is no such part */
const sizeOfPart = (length, index) => Math.max(0, Math.min(PART, length - index * PART));

/** @param {import('./bytes.js').Reader} reader behind the frame's type @returns {Values} */
export function readValues(reader) {
  const number = reader.integer();
  if (!number) throw malformed('frames are numbered from 1');
  const time = reader.integer();
  /** @type {Entry[]} */
  const entries = [];
  let alias, low = 0;
  /** @type {Before} */
  const before = { offset: 0, like: null };
  while (!reader.ended) {
    const flags = reader.byte();
    if (flags & OTHER_CHANNEL) {
      alias = reader.integer();
      before.offset = low = reader.integer();
    } else if (alias === undefined) throw malformed('the first entry names no channel');
    if (flags === (OTHER_CHANNEL | NO_VALUE)) {
      entries.push({ alias, low });
      before.like = null;
    } else entries.push(readChange(reader, flags, { alias, low }, time, before));
  }
  return { type: 'values', number, time, entries };
}

/**
 * @param {import('./bytes.js').Reader} reader @param {number} flags @param {{alias: number, low: number}} place
 * @param {number} time of the frame @param {Before} before @returns {Change}
 */
function readChange(reader, flags, { alias, low }, time, before) {
  const kind = flags & KIND;
  const removed = (flags & REMOVED) !== 0;
  const isLike = (flags & LIKE_BEFORE) !== 0;
  if (kind === 3 || (removed && flags & (IS_PART | KIND | LIKE_BEFORE)) || (isLike && flags & (IS_PART | OTHER_CHANNEL))) {
    throw malformed('an entry has flags that do not go together');
  }
  const offset = before.offset + reader.signed();
  if (offset <= low || offset > MAX_INTEGER) {
    throw malformed('an offset is at the low-water offset or below, or 2^53 or above');
  }
  before.offset = offset;
  const like = isLike ? before.like : null;
  if (isLike && !like) throw malformed('nothing stands before an entry that says no time and length');
  const changed = like ? like.time : time + reader.signed();
  if (changed < 0 || changed > MAX_INTEGER) throw malformed('a time is below 0, or 2^53 or above');
  const key = flags & HAS_KEY ? reader.string() : '';
  /** @type {Change} */
  const entry = { alias, low, offset, time: changed, key, removed };
  if (flags & HAS_ID) entry.id = reader.string();
  before.like = null;
  if (flags & IS_PART) entry.part = readPart(reader, kind);
  else if (!removed) {
    const bytes = like ? reader.taken(like.length) : reader.counted();
    before.like = { time: changed, length: bytes.length };
    entry.data = unpackPayload(kind, bytes);
  }
  return entry;
}

/** @param {import('./bytes.js').Reader} reader @param {number} kind @returns {Part} */
function readPart(reader, kind) {
  const index = reader.integer();
  const length = reader.integer();
  const bytes = reader.counted();
  if (length > MAX_PARTS * PART) throw malformed('a payload of that length does not come in parts');
  if (!bytes.length || bytes.length !== sizeOfPart(length, index)) throw malformed('no part of its payload');
  return { kind, index, length, bytes };
}
