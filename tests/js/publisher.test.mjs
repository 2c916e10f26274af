import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MAX_PENDING, REPEAT_MS } from '../../client/js/limits.js';
import { FulmarError } from '../../client/js/errors.js';
import { Publisher } from '../../client/js/publisher.js';
import { clock, settled } from './memory.mjs';

/** A connection whose publications are answered when they are told to. */
function line() {
  const sent = [];
  return {
    open: true,
    sent,
    publish: (channel, content) => new Promise((resolve, reject) => sent.push({ channel, content, resolve, reject })),
    ids: () => sent.map(({ content: { id } }) => id),
  };
}
const answer = (offset) => ({ type: 'published', channel: 'event:a', epoch: 'e', offset });

test('each has an id of its own, and one answer', async (context) => {
  clock(context);
  const publisher = new Publisher('abcd');
  const connection = line();
  publisher.use(connection);
  const publications = [publisher.publish('event:a', { data: 1 }), publisher.publish('event:b', { data: 2, key: 'k' })];
  assert.equal(publisher.pending, 2);
  assert.equal(new Set(connection.ids()).size, 2);
  assert.ok(connection.ids().every((id) => id.startsWith('abcd.')));
  assert.deepEqual(connection.sent.map(({ channel, content: { data, key } }) => [channel, data, key]), [['event:a', 1, undefined], ['event:b', 2, 'k']]);
  connection.sent[1].resolve(answer(2));
  connection.sent[0].resolve(answer(1));
  assert.deepEqual(await Promise.all(publications), [{ epoch: 'e', offset: 1 }, { epoch: 'e', offset: 2 }]);
  assert.equal(publisher.pending, 0);
});

test('what waits goes on the first connection, and what has no answer on the next, in its order', async (context) => {
  clock(context);
  const publisher = new Publisher('p');
  const publications = ['one', 'two', 'three'].map((data) => publisher.publish('event:a', { data }));
  const [first, second] = [line(), line()];
  publisher.use(first);
  assert.deepEqual(first.sent.map(({ content }) => content.data), ['one', 'two', 'three']);
  first.sent[1].resolve(answer(2));
  await settled();
  first.open = false;
  publisher.use(null);
  for (const { reject } of first.sent) reject(new FulmarError('closed', 'gone'));
  await settled();
  assert.equal(publisher.pending, 2);
  publisher.use(second);
  assert.deepEqual(second.sent.map(({ content }) => content.data), ['one', 'three']);
  assert.deepEqual(second.ids(), [first.ids()[0], first.ids()[2]], 'under the same ids');
  second.sent[0].resolve(answer(1));
  second.sent[1].resolve(answer(3));
  assert.deepEqual((await Promise.all(publications)).map(({ offset }) => offset), [1, 2, 3]);
});

test('the answer of a connection that was left counts, and a second one does nothing', async (context) => {
  clock(context);
  const publisher = new Publisher('p');
  const [first, second] = [line(), line()];
  publisher.use(first);
  const publishing = publisher.publish('event:a', { data: 1 });
  publisher.use(second);
  first.sent[0].resolve(answer(1));
  assert.equal((await publishing).offset, 1);
  second.sent[0].reject(new FulmarError('forbidden', 'late'));
  await settled();
  assert.equal(publisher.pending, 0);
});

test('a refusal is an answer', async (context) => {
  clock(context);
  const publisher = new Publisher('p');
  const connection = line();
  publisher.use(connection);
  const publishing = publisher.publish('event:a', { data: 1 });
  connection.sent[0].reject(new FulmarError('forbidden', 'Not here.'));
  await assert.rejects(publishing, { code: 'forbidden', message: /Not here\./ });
  assert.equal(publisher.pending, 0);
});

test('a request that came to nothing is repeated where it was, and those behind it wait for it', async (context) => {
  const time = clock(context);
  const publisher = new Publisher('p');
  const connection = line();
  publisher.use(connection);
  const publications = [publisher.publish('event:a', { data: 1 })];
  connection.sent[0].reject(new TypeError('fetch failed'));
  await settled();
  publications.push(publisher.publish('event:a', { data: 2 }));
  assert.equal(connection.sent.length, 1);
  await time.pass(1050);
  assert.deepEqual(connection.sent.slice(1).map(({ content }) => content.data), [1, 2]);
  connection.sent[1].reject(new FulmarError('node_full', 'Later.', { status: 503, retry: 5000 }));
  connection.sent[2].resolve(answer(2));
  await time.pass(4900);
  assert.equal(connection.sent.length, 3);
  await time.pass(150);
  assert.deepEqual(connection.sent.slice(3).map(({ content }) => content.data), [1]);
  connection.sent[3].resolve(answer(3));
  assert.deepEqual((await Promise.all(publications)).map(({ offset }) => offset), [3, 2]);
});

test('an id that is given is kept, and is not taken twice at a time', async (context) => {
  clock(context);
  const publisher = new Publisher('p');
  const connection = line();
  publisher.use(connection);
  const publishing = publisher.publish('event:a', { data: 1, id: 'mine' });
  await assert.rejects(publisher.publish('event:a', { data: 2, id: 'mine' }), { code: 'bad_id' });
  assert.deepEqual(connection.ids(), ['mine']);
  connection.sent[0].resolve(answer(1));
  await publishing;
  publisher.publish('event:a', { data: 1, id: 'mine' });
  assert.equal(connection.sent.length, 2);
});

test('so many may wait and no more', async (context) => {
  clock(context);
  const publisher = new Publisher('p');
  const waiting = Array.from({ length: MAX_PENDING }, (_, data) => publisher.publish('event:a', { data }));
  await assert.rejects(publisher.publish('event:a', { data: 'more' }), { code: 'too_many_pending' });
  const ended = Promise.allSettled(waiting);
  publisher.end(new FulmarError('closed', 'The end.'));
  assert.ok((await ended).every(({ reason }) => reason.code === 'closed'));
  assert.equal(publisher.pending, 0);
});

test('it is given up before the server could take it for a new one', async (context) => {
  const time = clock(context);
  assert.ok(REPEAT_MS < 120_000);
  const publisher = new Publisher('p');
  const never = publisher.publish('event:a', { data: 1 });
  const ended = assert.rejects(never, { code: 'unreachable' });
  await time.pass(50_000, 1000);
  const connection = line();
  const unanswered = publisher.publish('event:a', { data: 2 });
  const known = assert.rejects(unanswered, { code: 'unanswered' });
  await time.pass(50_000, 1000);
  await ended;
  publisher.use(connection);
  assert.deepEqual(connection.sent.map(({ content }) => content.data), [2]);
  await time.pass(50_000, 1000);
  await known;
  publisher.use(line());
  assert.equal(publisher.pending, 0);
});
