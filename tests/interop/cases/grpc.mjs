import assert from 'node:assert/strict';
import { after } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import grpc from '@grpc/grpc-js';
import { talkService } from '../backends.mjs';
import { calls, gateway, provider } from '../setup.mjs';
import { browserCase, cookieHeader, signedInAt } from './steps.mjs';

const client = new talkService(new URL(gateway.origin).host, grpc.credentials.createInsecure());
after(() => client.close());

browserCase('gRPC: a unary call, with the token in place of the cookie', async (profile) => {
  const metadata = await signedInMetadata(profile);
  metadata.set('x-custom', 'kept');
  metadata.set('x-data-bin', Buffer.from([0, 255]));
  calls.metadata.length = 0;
  assert.deepEqual(await unary('Say', { text: 'grüße' }, metadata), { text: 'grüße' });
  const [seen] = calls.metadata;
  assert.match(String(seen.get('authorization')), /^Bearer [\w-]{43}$/);
  assert.deepEqual(seen.get('cookie'), []);
  assert.deepEqual(seen.get('x-custom'), ['kept']);
  assert.deepEqual(seen.get('x-data-bin'), [Buffer.from([0, 255])]);
});

browserCase('gRPC: without a session the call is unauthenticated', async (profile) => {
  await profile.newPage();
  calls.metadata.length = 0;
  await assert.rejects(unary('Say', { text: 'x' }, new grpc.Metadata()), { code: grpc.status.UNAUTHENTICATED });
  assert.equal(calls.metadata.length, 0);
});

browserCase('gRPC: a token that has expired is renewed before the call goes out', async (profile) => {
  provider.issueAccessTokensFor(2);
  const metadata = await signedInMetadata(profile);
  provider.issueAccessTokensFor();
  calls.metadata.length = 0;
  await unary('Say', { text: 'x' }, metadata);
  await sleep(2_200);
  const requests = await provider.tokenRequestsDuring(async () => {
    assert.deepEqual(await unary('Say', { text: 'y' }, metadata), { text: 'y' });
  });
  assert.deepEqual(requests, { authorization_code: 0, refresh_token: 1, refused: 0 });
  const [first, second] = calls.metadata.map((seen) => String(seen.get('authorization')));
  assert.match(second, /^Bearer [\w-]{43}$/);
  assert.notEqual(first, second);
});

browserCase('gRPC: a 401 is "unauthenticated", and the next call has another token', async (profile) => {
  const metadata = await signedInMetadata(profile);
  calls.metadata.length = 0;
  await unary('Say', { text: 'x' }, metadata);
  // Past `refresh.cooldown`.
  await sleep(1_100);
  const requests = await provider.tokenRequestsDuring(async () => {
    await assert.rejects(unary('Refuse', { text: 'x' }, metadata), { code: grpc.status.UNAUTHENTICATED });
  });
  assert.deepEqual(requests, { authorization_code: 0, refresh_token: 1, refused: 0 });
  assert.deepEqual(await unary('Say', { text: 'y' }, metadata), { text: 'y' });
  const [first, second] = calls.metadata.map((seen) => String(seen.get('authorization')));
  assert.match(second, /^Bearer [\w-]{43}$/);
  assert.notEqual(first, second);
});

browserCase('gRPC: the server streams', async (profile) => {
  const stream = client.Split({ text: 'one two three' }, await signedInMetadata(profile));
  assert.deepEqual((await stream.toArray()).map(({ text }) => text), ['one', 'two', 'three']);
});

browserCase('gRPC: the client streams', async (profile) => {
  const metadata = await signedInMetadata(profile);
  const joined = await new Promise((resolve, reject) => {
    const stream = client.Join(metadata, (error, answer) => (error ? reject(error) : resolve(answer)));
    for (const text of ['one', 'two', 'x'.repeat(300_000)]) stream.write({ text });
    stream.end();
  });
  assert.equal(joined.text.length, 'onetwo'.length + 300_000);
});

browserCase('gRPC: both stream, and each message is answered before the next one is sent', async (profile) => {
  const stream = client.Chat(await signedInMetadata(profile));
  for (const text of ['first', 'second', 'third']) {
    stream.write({ text });
    const [answer] = await once(stream, 'data');
    assert.equal(answer.text, text);
  }
  stream.end();
  const [status] = await once(stream, 'status');
  assert.equal(status.code, grpc.status.OK);
});

browserCase('gRPC: an error arrives with its message and its trailers', async (profile) => {
  const metadata = await signedInMetadata(profile);
  await assert.rejects(unary('Fail', { text: 'x' }, metadata), (error) => {
    assert.deepEqual([error.code, error.details], [grpc.status.NOT_FOUND, 'no x, grüße']);
    assert.deepEqual(error.metadata.get('x-why'), ['because']);
    return true;
  });
});

browserCase('gRPC: the deadline reaches the server', async (profile) => {
  const metadata = await signedInMetadata(profile);
  calls.deadlines.length = 0;
  const deadline = Date.now() + 1_000;
  await assert.rejects(unary('Wait', { text: 'x' }, metadata, { deadline }), { code: grpc.status.DEADLINE_EXCEEDED });
  const [seen] = calls.deadlines;
  assert.ok(Math.abs(seen - deadline) < 1_000, `${seen} for ${deadline}`);
});

/** What a signed-in page's calls carry. */
async function signedInMetadata(profile) {
  await signedInAt(profile, '/anything/grpc');
  const metadata = new grpc.Metadata();
  metadata.set('cookie', await cookieHeader(profile));
  metadata.set('origin', gateway.origin);
  return metadata;
}

function unary(method, message, metadata, options = {}) {
  return new Promise((resolve, reject) => {
    client[method](message, metadata, options, (error, answer) => (error ? reject(error) : resolve(answer)));
  });
}

/** The next event of that name; an error before it fails the case. */
function once(stream, event) {
  return new Promise((resolve, reject) => {
    stream.once('error', reject);
    stream.once(event, (...values) => {
      stream.off('error', reject);
      resolve(values);
    });
  });
}
