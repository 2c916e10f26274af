/** A channel that is left and wanted again before the server has answered, and one that pauses while the client moves. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { buildCursor } from '../../client/js/cursor.js';
import { FulmarError } from '../../client/js/errors.js';
import { HIGH_WATER } from '../../client/js/limits.js';
import { connected, listen } from './connected.mjs';
import { settled } from './memory.mjs';

/** What is asked so is answered when each of these is called. */
function holdBack(server, type) {
  const waiting = [];
  server.intercept = (line, message) => message.type === type && waiting.push(() => line.answer(message)) > 0;
  for (const line of server.lines) answering(line);
  return waiting;
}
function answering(line) {
  line.answer = ({ type, ref, channel }) => {
    line.reading.delete(channel);
    line.say({ type: 'unsubscribed', ref, channel });
  };
}

describe('a channel that is wanted again', () => {
  test('begins where it is asked to, whatever the subscription before still brings', async (context) => {
    const { server, client } = connected(context);
    const first = listen(client, 'event:a');
    await first.subscription.ready;
    for (const n of [1, 2, 3]) server.publish('event:a', n);
    const { epoch } = server.channel('event:a');
    const waiting = holdBack(server, 'unsubscribe');
    first.subscription.unsubscribe();
    const { got, subscription } = listen(client, 'event:a', { after: buildCursor([{ channel: 'event:a', epoch, offset: 1 }]) });
    await settled();
    server.publish('event:a', 4);
    for (const answer of waiting.splice(0)) answer();
    await subscription.ready;
    server.publish('event:a', 5);
    await settled();
    assert.deepEqual(got, [2, 3, 4, 5]);
  });

  test('is not refused with the subscription before', async (context) => {
    const { server, client } = connected(context);
    await client.ready;
    let refuse;
    server.intercept = (line, { type, ref }) => {
      if (type !== 'subscribe' || refuse) return false;
      refuse = () => line.say({ type: 'error', ref, error: { code: 'forbidden', message: 'no' } });
      return true;
    };
    const first = client.subscribe('event:a');
    await settled();
    first.unsubscribe();
    const { got, subscription } = listen(client, 'event:a');
    refuse();
    await settled();
    await subscription.ready;
    server.publish('event:a', 1);
    await settled();
    assert.deepEqual(got, [1]);
  });
});

test('a channel that paused goes on without a hole over the connection that takes over', async (context) => {
  let blocked = true;
  const { time, server, client, line } = connected(context, { transports: ['webtransport', 'websocket'], open: (transport) => {
    if (transport === 'webtransport' && blocked) throw new FulmarError('unreachable', 'UDP is blocked.');
  } });
  const subscription = client.subscribe('event:a');
  await subscription.ready;
  const before = line();
  const got = [];
  let count = 0;
  const publish = (n) => { while (n--) server.publish('event:a', ++count); };
  const waiting = holdBack(server, 'unsubscribe');
  publish(HIGH_WATER);
  await settled();
  assert.equal(waiting.length, 1, 'it pauses');
  publish(5);
  const iterator = subscription[Symbol.asyncIterator]();
  const take = async (n) => { while (n--) got.push((await iterator.next()).value.data); };
  await take(HIGH_WATER);
  // The one before is not answered yet, and is heard until the other has said its first word.
  blocked = false;
  const later = [];
  const { intercept } = server;
  server.intercept = (on, message) => on !== before && /attach|subscribe/.test(message.type)
    ? later.push([on, message]) > 0 : intercept(on, message);
  await time.pass(8000);
  assert.equal(client.transport, 'webtransport');
  publish(1);
  await settled();
  server.intercept = () => false;
  for (const [on, message] of later) on.send(message);
  await settled();
  publish(1);
  await settled();
  await take(7);
  assert.deepEqual(got, Array.from({ length: HIGH_WATER + 7 }, (_, i) => i + 1));
});
