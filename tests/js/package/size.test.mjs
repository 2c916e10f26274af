import assert from 'node:assert/strict';
import test from 'node:test';
import { EVERYTHING, STATE_VIEW, TRANSPORTS, bundled } from '../size.mjs';

/** The aim is 15 KB. Until it is reached the client grows no further. */
const MOST = 17_550;

test('the whole client is at most 17,550 bytes, minified and gzipped', async () => {
  const { gzip } = await bundled(EVERYTHING);
  assert.ok(gzip <= MOST, `${gzip} bytes`);
});

test('one export does not bring the others', async () => {
  const { gzip: all } = await bundled(EVERYTHING);
  for (const code of [STATE_VIEW, "export { advice } from './fulmar.js'", "export { parseCursor } from './fulmar.js'"]) {
    const { gzip } = await bundled(code);
    assert.ok(gzip < all / 4, `${code} is ${gzip} bytes of ${all}`);
  }
});

test('an import that is not used brings nothing', async () => {
  const { raw } = await bundled("import { open } from './fulmar.js'");
  assert.equal(raw, 0);
});

test('a transport does not bring the others', async () => {
  const { gzip: all } = await bundled(EVERYTHING);
  for (const [name, code] of Object.entries(TRANSPORTS)) {
    const { gzip } = await bundled(code);
    assert.ok(gzip < all * 0.9, `${name} is ${gzip} bytes of ${all}`);
  }
});
