/** What a client takes for another network. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { follow } from '../../client/js/platform.js';

test('another kind of network is one; another estimate of how good it is is none', (t) => {
  const connection = Object.assign(new EventTarget(), { type: 'wifi', effectiveType: '4g' });
  const before = Object.getOwnPropertyDescriptor(globalThis, 'navigator');
  Object.defineProperty(globalThis, 'navigator', { value: { connection }, configurable: true });
  t.after(() => (before ? Object.defineProperty(globalThis, 'navigator', before) : delete globalThis.navigator));
  let changes = 0;
  follow({ closed: new Promise(() => {}), networkChanged: () => changes++ });
  const change = (now) => {
    Object.assign(connection, now);
    connection.dispatchEvent(new Event('change'));
  };
  change({ effectiveType: '3g' });
  assert.equal(changes, 0);
  change({ type: 'cellular' });
  change({ effectiveType: '4g' });
  assert.equal(changes, 1);
});

test('being online again is one', (t) => {
  const page = new EventTarget();
  globalThis.addEventListener = page.addEventListener.bind(page);
  t.after(() => delete globalThis.addEventListener);
  let changes = 0;
  follow({ closed: new Promise(() => {}), networkChanged: () => changes++ });
  page.dispatchEvent(new Event('online'));
  assert.equal(changes, 1);
});
