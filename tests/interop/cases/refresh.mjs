import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { digest } from '../backends.mjs';
import { eventually } from '../processes.mjs';
import { provider, userinfo } from '../setup.mjs';
import { browserCase, fetchFrom, isAt, isLogin, sessionCookie, signedInAt } from './steps.mjs';

browserCase('after the token has expired ten parallel calls of the page succeed with one refresh', async (profile) => {
  provider.issueAccessTokensFor(2);
  const page = await signedInAt(profile, '/anything/expired');
  provider.issueAccessTokensFor();
  provider.delayTokensBy(500);
  await sleep(2_200);
  userinfo.take();

  const requests = await provider.tokenRequestsDuring(async () => {
    assert.deepEqual(await tenCalls(page), Array(10).fill(200));
  });
  assert.deepEqual(requests, ONE_REFRESH);
  // Known to be expired, so refreshed before anything went out.
  assert.deepEqual(userinfo.take().map(({ status }) => status), Array(10).fill(200));
});

browserCase('a token revoked early: the backend says 401, the page sees only 200, with one refresh for ten calls', async (profile) => {
  const page = await signedInAt(profile, '/anything/revoked');
  provider.delayTokensBy(500);
  await revokeOutsideCooldown();

  const requests = await provider.tokenRequestsDuring(async () => {
    assert.deepEqual(await tenCalls(page), Array(10).fill(200));
  });
  assert.deepEqual(requests, ONE_REFRESH);

  const exchanges = userinfo.take();
  const refused = exchanges.filter(({ status }) => status === 401);
  const accepted = exchanges.filter(({ status }) => status === 200);
  assert.ok(refused.length > 1, 'several calls must meet the refresh under way');
  assert.equal(accepted.length, 10);
  assert.equal(tokensOf(refused).size, 1);
  assert.equal(tokensOf(accepted).size, 1);
  assert.notDeepEqual(tokensOf(accepted), tokensOf(refused));
});

browserCase('a refused POST is sent again with the same body, byte for byte', async (profile) => {
  const page = await signedInAt(profile, '/anything/replay');
  await revokeOutsideCooldown();

  // Every byte value, as a form: 256 × 3 + 2 characters, then padding.
  const body = `a=${Array.from({ length: 256 }, (_, byte) => `%${byte.toString(16).padStart(2, '0')}`).join('')}${'z'.repeat(8_000)}`;
  const { status } = await fetchFrom(page, '/me?once=1', {
    method: 'POST', body, headers: { 'content-type': 'application/x-www-form-urlencoded', 'x-case': 'replay' },
  });
  assert.equal(status, 200);

  const exchanges = userinfo.take();
  assert.deepEqual(exchanges.map((exchange) => exchange.status), [401, 200]);
  const [refused, accepted] = exchanges;
  for (const { method, url, bodyDigest } of exchanges) {
    assert.deepEqual({ method, url, bodyDigest }, { method: 'POST', url: '/me?once=1', bodyDigest: digest(body) });
  }
  assert.deepEqual({ ...accepted.headers, authorization: null }, { ...refused.headers, authorization: null });
});

browserCase('a body too large to keep is sent again by the browser, asked with 307', async (profile) => {
  const page = await signedInAt(profile, '/anything/resend');
  await revokeOutsideCooldown();

  const body = `a=${'y'.repeat(40_000)}`;
  const statuses = [];
  page.on('response', (response) => statuses.push(response.status()));
  const { status } = await fetchFrom(page, '/me', {
    method: 'POST', body, headers: { 'content-type': 'application/x-www-form-urlencoded' },
  });
  assert.equal(status, 200);
  assert.deepEqual(statuses, [307, 200]);
  assert.deepEqual(
    userinfo.take().map((exchange) => [exchange.status, exchange.bodyDigest]),
    [[401, digest(body)], [200, digest(body)]],
  );
});

browserCase('refresh tokens are rotated: three refreshes in a row each use the newest', async (profile) => {
  const page = await signedInAt(profile, '/anything/rotation');

  const requests = await provider.tokenRequestsDuring(async () => {
    for (let round = 0; round < 3; round += 1) {
      await revokeOutsideCooldown();
      assert.equal((await fetchFrom(page, '/me')).status, 200);
    }
  });
  assert.deepEqual(requests, { authorization_code: 0, refresh_token: 3, refused: 0 });
});

browserCase('POST /auth/refresh gives the page a session with a new token', async (profile) => {
  const page = await signedInAt(profile, '/anything/forced');
  const tokenSeen = async () => JSON.parse((await fetchFrom(page, '/bearer')).body).token;
  const before = await tokenSeen();

  const requests = await provider.tokenRequestsDuring(async () => {
    assert.equal((await fetchFrom(page, '/auth/refresh', { method: 'POST' })).status, 200);
  });
  assert.deepEqual(requests, ONE_REFRESH);
  assert.notEqual(await tokenSeen(), before);
});

browserCase('consent withdrawn at the provider: the call gets 401 with the way to log in, the session is gone', async (profile) => {
  const page = await signedInAt(profile, '/anything/withdrawn');
  await sleep(1_100);
  await provider.revokeGrants();

  const { status, headers } = await fetchFrom(page, '/me');
  assert.equal(status, 401);
  assert.equal(headers['latchgate-reason'], 'expired');
  isLogin(headers['latchgate-login'], { return_to: '/anything/withdrawn', status: 'expired' });
  assert.equal(await sessionCookie(profile), undefined);

  await page.reload();
  isAt(page, provider.origin);
});

browserCase('provider down during a refresh: 503 with Retry-After, the session survives and works again', async (profile) => {
  provider.issueAccessTokensFor(2);
  const page = await signedInAt(profile, '/anything/outage');
  provider.issueAccessTokensFor();
  await sleep(2_200);

  provider.setReachable(false);
  try {
    const { status, headers } = await fetchFrom(page, '/bearer');
    assert.equal(status, 503);
    assert.match(headers['retry-after'], /^\d+$/);
    assert.ok(await sessionCookie(profile));
  } finally {
    provider.setReachable(true);
  }
  await eventually(async () => (await fetchFrom(page, '/bearer')).status === 200, 'the next refresh to succeed', 30_000);
});

const ONE_REFRESH = { authorization_code: 0, refresh_token: 1, refused: 0 };

const tenCalls = (page) => page.evaluate(async () => {
  const answers = await Promise.all(Array.from({ length: 10 }, (_, index) => fetch(`/me?call=${index}`)));
  return answers.map((answer) => answer.status);
});

const tokensOf = (exchanges) => new Set(exchanges.map(({ headers }) => headers.authorization));

/** Voids the tokens once they are older than `refresh.cooldown`, and forgets what was recorded before. */
async function revokeOutsideCooldown() {
  await sleep(1_100);
  await provider.revokeAccessTokens();
  userinfo.take();
}
