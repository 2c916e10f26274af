/** A client of a server in memory, and what it was told. */
import { Client } from '../../client/js/client.js';
import { Memory, clock } from './memory.mjs';

let serial = 0;

/**
 * A client of a server in memory. `open` decides about each attempt: it throws, or not.
 * @param {import('node:test').TestContext} context
 */
export function connected(context, { transports = ['websocket'], open = () => {}, random = () => 0.5 } = {}) {
  const time = clock(context);
  context.mock.method(Math, 'random', () => random());
  const server = new Memory();
  const dialled = [];
  const client = new Client(`http://client${serial++}`, transports, async (transport) => {
    dialled.push({ transport, at: time.now });
    await open(transport, dialled.length);
    return server.accept(transport);
  });
  const events = [];
  for (const type of ['status', 'transport', 'gap', 'error', 'close']) {
    client.addEventListener(type, ({ detail }) => events.push([type, detail]));
  }
  context.after(() => client.close());
  client.run();
  const line = () => server.lines.at(-1);
  const of = (type) => events.filter(([each]) => each === type).map(([, detail]) => detail);
  return { time, server, client, dialled, events, of, line };
}

/** What a subscription was given, in words. */
export function listen(client, channel, options = {}) {
  const got = [];
  const note = (type) => ({ offset }) => got.push(`${type} ${offset}`);
  const subscription = client.subscribe(channel, { ...options,
    onPublication: ({ data }) => got.push(data), onGap: note('gap'), onReset: note('reset'), onSynced: note('synced'),
    onError: ({ code }) => got.push(`error ${code}`) });
  return { got, subscription };
}
