import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import test from 'node:test';
import * as client from '../../../client/js/fulmar.js';
import { TARGET, reference } from '../api.mjs';

const text = reference();

test('client/js/API.md is what the types and comments say: npm --prefix tests run api', async () => {
  assert.equal(await readFile(TARGET, 'utf8'), text);
});

test('the reference has all that is exported', () => {
  for (const name of Object.keys(client)) assert.match(text, new RegExp(`^### ${name}$`, 'm'));
});

test('the reference has all the client types that it names', () => {
  const described = new Set([...text.matchAll(/^### (\w+)$/gm)].map(([, name]) => name));
  for (const [, name] of text.matchAll(/^abstract class \w+ extends (\w+)$/gm)) assert.ok(described.has(name), name);
  for (const name of ['Gap', 'Subscribed', 'Place', 'InbandConnection', 'HttpConnection']) {
    assert.ok(described.has(name), name);
  }
});

test('the reference has nothing that is not for applications', () => {
  assert.doesNotMatch(text, /^#### (#|release|finish|deliver|positions|static #)/m);
});
