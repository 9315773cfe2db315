import assert from 'node:assert/strict';
import { test } from 'node:test';
import { gateway, userinfo } from '../setup.mjs';
import { browserCase, cookieHeader, isLogin, signedInAt } from './steps.mjs';

test('an API client without a session gets 401 with the way to log in, and the backend nothing', async () => {
  userinfo.take();
  const answer = await fetch(`${gateway.origin}/me`, { redirect: 'manual', headers: { accept: 'application/json' } });

  assert.equal(answer.status, 401);
  assert.equal(answer.headers.get('latchgate-reason'), 'unauthorized');
  isLogin(answer.headers.get('latchgate-login'), { return_to: '/', status: 'unauthorized' });
  assert.match(answer.headers.get('www-authenticate'), /^Bearer\b/);
  assert.deepEqual(answer.headers.getSetCookie(), []);
  const body = await answer.json();
  assert.equal(body.statusCode, 401);
  assert.equal(body.error, 'Unauthorized');
  isLogin(body.loginUrl, { return_to: '/', status: 'unauthorized' });
  assert.deepEqual(userinfo.take(), []);
});

test('a path without a route is 404 from the gateway', async () => {
  const answer = await fetch(`${gateway.origin}/nowhere`);
  assert.equal(answer.status, 404);
  assert.equal((await answer.json()).statusCode, 404);
});

test('a public backend answers as it is, its own errors included', async () => {
  for (const status of [204, 401, 403, 418, 500]) {
    const answer = await fetch(`${gateway.origin}/status/${status}`);
    assert.equal(answer.status, status);
    assert.equal(answer.headers.get('latchgate-login'), null);
  }
});

browserCase('a session cookie used from another origin cannot post', async (profile) => {
  await signedInAt(profile, '/anything/csrf');
  const cookie = await cookieHeader(profile);
  const post = (headers) => fetch(`${gateway.origin}/anything/csrf`, {
    method: 'POST', body: 'a=1', headers: { cookie, ...headers },
  });

  assert.equal((await post({ origin: 'http://evil.example' })).status, 403);
  assert.equal((await post({ 'sec-fetch-site': 'cross-site', origin: gateway.origin })).status, 403);
  assert.equal((await post({ origin: gateway.origin })).status, 200);
});
