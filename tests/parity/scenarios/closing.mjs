/** Close codes: the client's own, and the server's where the transport can show one. */
import assert from 'node:assert/strict';
import { channelIn } from '../server.mjs';

const timeout = 20_000;

async function byClient({ server, peer, transport }) {
  const channel = channelIn('event');
  const id = await peer.open(transport, { channels: [channel] });
  await server.publish(channel, { data: 1 });
  await peer.call('wait', { id, channel, for: { publications: 1 }, timeout });
  await peer.call('close', { id, code: 4123, reason: 'enough' });
  assert.equal((await peer.call('closed', { id, timeout })).code, 4123);
  await server.publish(channel, { data: 2 });
  // Another connection of the same peer is not touched by it.
  const other = await peer.open(transport, { channels: [channel] });
  await server.publish(channel, { data: 3 });
  await peer.call('wait', { id: other, channel, for: { publications: 1 }, timeout });
  await peer.call('close', { id: other });
  assert.equal((await peer.call('closed', { id: other, timeout })).code, 1000);
  assert.equal((await peer.call('digest', { id, channel })).count, 1, 'a closed connection received something');
}

/** Several times: a close that overtakes its own code is lost in some of them only. */
async function byServer(over) {
  for (let round = 0; round < 5; round++) await replaced(over);
}

async function replaced({ server, peer, transport }) {
  const channel = channelIn('event');
  const session = await server.session();
  let id;
  if (transport.transport === 'sse') {
    id = await peer.open(transport, { channels: [channel], ticket: await session.ticket() });
  } else {
    id = await peer.open(transport);
    await peer.call('attach', { id, session: session.id, secret: session.secret });
    await peer.call('subscribe', { id, channel });
  }
  await server.publish(channel, { data: 'first' });
  await peer.call('wait', { id, channel, for: { publications: 1 }, timeout });
  const thief = await server.publisher();
  try {
    const told = [];
    const moved = new Promise((resolve) => {
      thief.onmessage = (message) => told.push(message) > 1 && resolve(told);
    });
    await thief.request({ type: 'attach', id: session.id, secret: session.secret });
    assert.equal((await peer.call('closed', { id, timeout })).code, 4900);
    await server.publish(channel, { data: 'second' });
    const late = new Promise((_, reject) => setTimeout(reject, timeout, new Error('no publication on the connection that took over')).unref());
    const [gap, publication] = await Promise.race([moved, late]);
    // What was on its way to the replaced connection may be lost, and the server cannot know.
    assert.deepEqual({ type: gap.type, channel: gap.channel, offset: gap.offset }, { type: 'gap', channel, offset: 1 });
    assert.deepEqual({ channel: publication.channel, data: publication.data }, { channel, data: 'second' });
    assert.equal((await peer.call('digest', { id, channel })).count, 1);
  } finally {
    thief.close();
  }
}

export const scenarios = [
  { name: 'a connection closes with its client\'s code', run: byClient },
  { name: 'a replaced connection closes with 4900', applies: ({ transport }) => transport !== 'poll', run: byServer },
];
