import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import { fromBase64 } from '../../client/js/json.js';
import { fromJson, toJson } from './json.mjs';
import { decodeServer, encodeClient } from '../../client/js/wire.js';
import { decodeClient, encodeServer } from './peer.mjs';

const vectors = JSON.parse(readFileSync(new URL('../vectors/frames.json', import.meta.url), 'utf8'));
const hex = (bytes) => Buffer.from(bytes).toString('hex');
const unhex = (text) => new Uint8Array(Buffer.from(text, 'hex'));
const KINDS = { binary: 0, text: 1, json: 2 };

/** An entry as the codec has it, of one as the vectors do. */
function entryOf({ part, b64, data, ...entry }) {
  if (entry.offset === undefined) return entry;
  const whole = { key: '', removed: false, ...entry };
  if (part) {
    const { kind, index, length } = part;
    whole.part = { kind: KINDS[kind], index, length, bytes: fromBase64(part.b64) };
  } else if (!entry.removed) whole.data = b64 === undefined ? data : fromBase64(b64);
  return whole;
}

describe('golden frames of values', () => {
  for (const { name, values, bin } of vectors.values) {
    test(name, () => {
      const message = { ...values, type: 'values', entries: values.entries.map(entryOf) };
      assert.equal(hex(encodeServer(message)), bin);
      assert.deepEqual(decodeServer(unhex(bin)), message);
    });
  }

  test('what a frame holds does not keep the datagram', () => {
    const bytes = unhex(vectors.values.find(({ name }) => name === 'a part').bin);
    const [{ part }] = decodeServer(bytes).entries;
    assert.notEqual(part.bytes.buffer, bytes.buffer);
    assert.equal(part.bytes.buffer.byteLength, 1000);
  });
});

describe('golden frames of acknowledgements', () => {
  for (const { name, ack: { newest, bitmap }, bin } of vectors.acks) {
    test(name, () => {
      const message = { type: 'ack', newest, bitmap: BigInt(`0x${bitmap}`) };
      assert.equal(hex(encodeClient(message)), bin);
      assert.deepEqual(decodeClient(unhex(bin)), message);
    });
  }
});

describe('malformed frames of values and acknowledgements', () => {
  for (const [list, decode] of [['malformed_values', decodeServer], ['malformed_acks', decodeClient]]) {
    for (const { name, bin, why } of vectors[list]) {
      test(`${name}: ${why}`, () => assert.throws(() => decode(unhex(bin)), { code: 'malformed' }));
    }
  }

  test('neither goes the other way', () => {
    for (const { bin } of vectors.values) assert.throws(() => decodeClient(unhex(bin)), { code: 'malformed' });
    for (const { bin } of vectors.acks) assert.throws(() => decodeServer(unhex(bin)), { code: 'malformed' });
  });

  test('no cut of a frame is a frame with other values', () => {
    for (const { values, bin } of vectors.values) {
      const bytes = unhex(bin);
      const whole = values.entries.map(entryOf);
      for (let cut = 0; cut < bytes.length; cut++) {
        let entries;
        try {
          ({ entries } = decodeServer(bytes.subarray(0, cut)));
        } catch (error) {
          assert.equal(error.code, 'malformed');
          continue;
        }
        assert.deepEqual(entries, whole.slice(0, entries.length), 'it ended between two entries');
        assert.ok(entries.length < whole.length);
      }
    }
  });
});

describe('priorities of publishes', () => {
  for (const { name, json, bin } of vectors.priorities) {
    test(name, () => {
      const message = fromJson(json);
      assert.deepEqual(toJson(message), json, 'JSON there and back');
      assert.equal(hex(encodeClient(message)), bin);
      assert.deepEqual(decodeClient(unhex(bin)), message);
    });
  }

  test('what a byte does not hold, and 0, are not sent', () => {
    for (const priority of [0, 256, 1.5, -1]) {
      const publish = { type: 'publish', channel: 'state:a', data: 1, priority };
      assert.throws(() => encodeClient(publish), RangeError);
    }
  });
});
