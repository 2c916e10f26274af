import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import { buildCursor, entryFrom, entryOf, fnv1a64, parseCursor } from '../../client/js/cursor.js';
import { createSplitter, prefixed, splitDatagram, splitMessage } from '../../client/js/framing.js';
import { fromJson as fromServer } from '../../client/js/json.js';
import { createReceiver } from '../../client/js/receiver.js';
import { decodeServer, encodeClient } from '../../client/js/wire.js';
import { fromJson, toJson } from './json.mjs';
import { decodeClient, encodeServer } from './peer.mjs';

const vectors = JSON.parse(readFileSync(new URL('../vectors/frames.json', import.meta.url), 'utf8'));
const hex = (bytes) => Buffer.from(bytes).toString('hex');
const unhex = (text) => new Uint8Array(Buffer.from(text, 'hex'));

/** As if the frames before it had named the alias. */
function knowing(alias, { channel, epoch }) {
  const aliases = createReceiver();
  aliases.resolve({ type: 'reset', alias, channel, epoch, offset: 0 });
  return aliases;
}

describe('golden frames', () => {
  for (const { name, direction, json, alias, bin } of vectors.frames) {
    test(name, () => {
      const message = fromJson(json);
      assert.deepEqual(toJson(message), json, 'JSON there and back');
      if (direction === 'client') {
        assert.equal(hex(encodeClient(message)), bin);
        assert.deepEqual(decodeClient(unhex(bin)), message);
        return;
      }
      assert.deepEqual(fromServer(json), message, 'as SSE and polling bring it');
      assert.equal(hex(encodeServer(alias === undefined ? message : { ...message, alias })), bin);
      const decoded = decodeServer(unhex(bin));
      assert.equal(decoded.alias, alias);
      assert.deepEqual(knowing(alias, message).resolve(decoded), message);
    });
  }

  test('a publication in JSON has its members in the order of the server', () => {
    for (const { json } of vectors.frames.filter((frame) => frame.json.type === 'publication')) {
      assert.equal(JSON.stringify(toJson(fromJson(json))), JSON.stringify(json));
    }
  });
});

describe('malformed frames', () => {
  for (const { name, direction, bin, why } of vectors.malformed) {
    test(`${name}: ${why}`, () => {
      const decode = direction === 'client' ? decodeClient : decodeServer;
      assert.throws(() => decode(unhex(bin)), { code: 'malformed' });
    });
  }
});

describe('cursors', () => {
  for (const { name, positions, cursor } of vectors.cursors) {
    test(name, () => {
      assert.equal(buildCursor(positions), cursor);
      const entries = positions.map(({ channel, ...rest }) => ({ hash: fnv1a64(channel), ...rest }));
      assert.deepEqual(parseCursor(cursor), entries);
      assert.deepEqual(entryOf(cursor, positions.at(-1).channel), entries.at(-1));
    });
  }

  test('FNV-1a 64 gives the published values', () => {
    assert.equal(fnv1a64(''), 'cbf29ce484222325');
    assert.equal(fnv1a64('a'), 'af63dc4c8601ec8c');
    assert.equal(fnv1a64('foobar'), '85944171f73967e8');
  });

  test('what is not a cursor is refused', () => {
    const hash = fnv1a64('a');
    for (const bad of ['', '~', 'x', `${hash}.e`, `${hash}.e.`, `${hash}.e.1.`, `${hash}.e.1.2.3`, `${hash}.é.1`,
      `${hash.toUpperCase()}.e.1`, `${hash}.e.A`, `${hash}.e.2gosa7pa2gw`, `${hash}.e.1~`]) {
      assert.throws(() => parseCursor(bad), { code: 'bad_cursor' }, bad);
    }
  });

  test('no cursor holds nothing or more than 32 channels', () => {
    assert.equal(buildCursor([]), null);
    assert.equal(buildCursor(Array.from({ length: 33 }, (_, i) => ({ channel: `c${i}`, epoch: 'e', offset: 1 }))), null);
  });

  test('one base is kept, and the channel of another is read afresh', () => {
    const at = (...positions) => parseCursor(buildCursor(positions)).map(({ hash, offset, base }) => [hash, offset, base]);
    const [a, b, c] = ['a', 'b', 'c'].map((channel, i) => ({ channel, epoch: 'e', offset: i }));
    assert.deepEqual(at(a, { ...b, base: 9 }, { ...c, base: 8 }), [[fnv1a64('a'), 0, undefined], [fnv1a64('b'), 1, 9]]);
    assert.deepEqual(at(a, b, { ...c, base: 0 }).length, 3);
  });

  test('where a channel goes on: after its position, or its part of a cursor', () => {
    const older = buildCursor([{ channel: 'b', epoch: 'e', offset: 2, base: 9 }]);
    assert.deepEqual(entryFrom('b', { after: older }), { hash: fnv1a64('b'), epoch: 'e', offset: 2, base: 9 });
    assert.deepEqual(entryFrom('a', { position: { epoch: 'e', offset: 6 } }), { hash: fnv1a64('a'), epoch: 'e', offset: 6 });
    assert.equal(entryFrom('x', { after: older }), undefined);
    assert.equal(entryFrom('x', {}), undefined);
  });
});

describe('framing', () => {
  const frames = [0, 1, 63, 64, 300, 16383, 16384, 70000].map((length) => new Uint8Array(length).fill(length & 0xff));
  const stream = Uint8Array.from(frames.flatMap((frame) => [...prefixed(frame)]));

  test('a stream is cut into the frames that made it, wherever the chunks end', () => {
    for (const size of [1, 2, 7, 1000, 65536, stream.length]) {
      const splitter = createSplitter();
      const out = [];
      for (let at = 0; at < stream.length; at += size) out.push(...splitter.push(stream.subarray(at, at + size)));
      assert.deepEqual(out.map((frame) => frame.length), frames.map((frame) => frame.length));
      assert.ok(out.every((frame, i) => Buffer.compare(frame, frames[i]) === 0));
      assert.equal(splitter.pending, 0);
    }
  });

  test('a declared length above the bound is refused before its bytes come', () => {
    const head = prefixed(new Uint8Array(1001)).subarray(0, 2);
    assert.throws(() => createSplitter(1000).push(head), { code: 'malformed' });
  });

  test('a datagram holds whole frames only', () => {
    const datagram = Uint8Array.from([...prefixed(unhex('0a01')), ...prefixed(unhex('0901'))]);
    assert.deepEqual(splitDatagram(datagram).map(hex), ['0a01', '0901']);
    assert.throws(() => splitDatagram(datagram.subarray(0, 5)), { code: 'malformed' });
  });
});

test('an alias that is not known resolves to nothing, and a new epoch takes a new alias', () => {
  const aliases = createReceiver();
  assert.equal(aliases.resolve({ type: 'synced', alias: 1, offset: 1 }), null);
  aliases.resolve({ type: 'subscribed', alias: 1, channel: 'a', epoch: 'e1', offset: 0 });
  aliases.resolve({ type: 'gap', alias: 2, channel: 'a', epoch: 'e2', offset: 0 });
  assert.equal(aliases.resolve({ type: 'synced', alias: 1, offset: 1 }).epoch, 'e1');
  assert.equal(aliases.resolve({ type: 'synced', alias: 2, offset: 1 }).epoch, 'e2');
});

describe('batches', () => {
  for (const { name, bin, frames } of vectors.batches) {
    test(name, () => assert.deepEqual(splitMessage(unhex(bin)).map(hex), frames));
  }
  for (const { name, bin } of vectors.malformed_batches) {
    // One of fewer than two frames does no harm.
    if (!/batch of/.test(name)) test(name, () => assert.throws(() => splitMessage(unhex(bin)).map(decodeServer), { code: 'malformed' }));
  }
});
