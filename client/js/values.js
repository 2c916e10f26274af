/**
 * The `values` frame, which brings the newest values of many keys (PROTOCOL.md, section 9).
 *
 * An entry that has no `offset` brings its channel's low-water offset alone; one that has `part` brings a part of a
 * payload; any other brings a publication.
 *
 * @typedef {{kind: number, index: number, length: number, bytes: Uint8Array}} Part
 * @typedef {{alias: number, low: number, offset?: number, time?: number, key?: string, id?: string, removed?: boolean,
 *   data?: unknown, part?: Part}} Entry
 * @typedef {{type: 'values', number: number, time: number, entries: Entry[]}} Values
 */
import { HAS_ID, HAS_KEY, KIND, MAX_INTEGER, REMOVED, malformed, packPayload, unpackPayload } from './bytes.js';

/** The bytes of a part, but the last of its payload, and the most parts of one. */
export const PART = 1000, MAX_PARTS = 16;

/** Flags of an entry besides those of a publication. */
const OTHER_CHANNEL = 0x20, IS_PART = 0x40, NO_VALUE = 0x80;

/** @param {number} length of the whole payload @param {number} index @returns {number} 0 where there is no such part */
const sizeOfPart = (length, index) => Math.max(0, Math.min(PART, length - index * PART));

/**
 * @param {import('./bytes.js').Writer} writer behind the frame's type
 * @param {{number: number, time: number, entries: Entry[]}} values
 */
export function writeValues(writer, { number, time, entries }) {
  writer.integer(number).integer(time);
  let before = null;
  for (const entry of entries) {
    const { alias, low, offset, key, id, removed, part } = entry;
    const other = before?.alias !== alias || before.low !== low;
    before = entry;
    if (offset === undefined) {
      writer.byte(OTHER_CHANNEL | NO_VALUE).integer(alias).integer(low);
      continue;
    }
    const [kind, payload] = removed ? [0, null] : part ? [part.kind, part.bytes] : packPayload(entry.data);
    writer.byte(kind | (key ? HAS_KEY : 0) | (removed ? REMOVED : 0) | (id === undefined ? 0 : HAS_ID)
      | (other ? OTHER_CHANNEL : 0) | (part ? IS_PART : 0));
    if (other) writer.integer(alias).integer(low);
    const after = entry.time - time;
    writer.integer(offset - low).integer(after < 0 ? -2 * after - 1 : 2 * after);
    if (key) writer.string(key);
    if (id !== undefined) writer.string(id);
    if (part) writer.integer(part.index).integer(part.length);
    if (payload) writer.integer(payload.length).bytes(payload);
  }
}

/** @param {import('./bytes.js').Reader} reader behind the frame's type @returns {Values} */
export function readValues(reader) {
  const number = reader.integer();
  if (!number) throw malformed('frames are numbered from 1');
  const time = reader.integer();
  /** @type {Entry[]} */
  const entries = [];
  let alias, low;
  while (!reader.ended) {
    const flags = reader.byte();
    if (flags & OTHER_CHANNEL) {
      alias = reader.integer();
      low = reader.integer();
    } else if (alias === undefined) throw malformed('the first entry names no channel');
    if (flags === (OTHER_CHANNEL | NO_VALUE)) entries.push({ alias, low });
    else entries.push(readEntry(reader, flags, { alias, low }, time));
  }
  return { type: 'values', number, time, entries };
}

/** @param {Entry} entry that has its channel and nothing else @returns {Entry} */
function readEntry(reader, flags, entry, time) {
  const kind = flags & KIND;
  const removed = (flags & REMOVED) !== 0;
  if (flags & NO_VALUE || kind === 3 || (removed && flags & (IS_PART | KIND))) {
    throw malformed('an entry has flags that do not go together');
  }
  const above = reader.integer();
  entry.offset = entry.low + above;
  if (!above || entry.offset > MAX_INTEGER) throw malformed('an offset is at the low-water offset, or 2^53 or above');
  const zigzag = reader.integer();
  entry.time = time + (zigzag % 2 ? -(zigzag + 1) / 2 : zigzag / 2);
  if (entry.time < 0 || entry.time > MAX_INTEGER) throw malformed('a time is below 0, or 2^53 or above');
  entry.key = flags & HAS_KEY ? reader.string() : '';
  if (flags & HAS_ID) entry.id = reader.string();
  entry.removed = removed;
  if (flags & IS_PART) entry.part = readPart(reader, kind);
  else if (!removed) entry.data = unpackPayload(kind, reader.counted());
  return entry;
}

/** @returns {Part} */
function readPart(reader, kind) {
  const index = reader.integer();
  const length = reader.integer();
  const bytes = reader.counted();
  if (length > MAX_PARTS * PART) throw malformed('a payload of that length does not come in parts');
  if (!bytes.length || bytes.length !== sizeOfPart(length, index)) throw malformed('no part of its payload');
  return { kind, index, length, bytes };
}
