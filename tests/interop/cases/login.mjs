import assert from 'node:assert/strict';
import { screenshot, shownJson, signIn } from '../browser.mjs';
import { gateway, provider, userinfo } from '../setup.mjs';
import { browserCase, fetchFrom, isAt, sessionCookie, signedInAt } from './steps.mjs';

browserCase('a protected page leads through the login form back to the very page, and its backend gets the token', async (profile) => {
  const page = await profile.newPage();
  const target = `${gateway.origin}/anything/page?x=1&y=a%20b&x=2`;

  await page.goto(target);
  isAt(page, provider.origin);
  await screenshot(page, '1 login form of the provider');

  await signIn(page, gateway.origin);
  assert.equal(page.url(), target);
  await screenshot(page, '2 back on the page');
  const received = await shownJson(page);
  assert.deepEqual(received.args, { x: ['1', '2'], y: 'a b' });
  assert.match(received.headers.Authorization, /^Bearer [\w-]{43}$/);
  assert.equal(received.headers.Cookie, undefined);
});

browserCase('a backend that checks tokens accepts the attached one and knows the user', async (profile) => {
  const page = await signedInAt(profile, '/anything/me-page', 'alan');
  userinfo.take();

  const { status, body } = await fetchFrom(page, '/me');
  assert.equal(status, 200);
  assert.equal(JSON.parse(body).sub, 'alan');
  assert.deepEqual(userinfo.take().map((exchange) => exchange.status), [200]);
});

browserCase('the session is a cookie that scripts cannot read, and no token reaches the browser', async (profile) => {
  const page = await signedInAt(profile, '/anything/cookie');

  const { path, httpOnly, sameSite, value } = await sessionCookie(profile);
  assert.deepEqual({ path, httpOnly, sameSite }, { path: '/', httpOnly: true, sameSite: 'Lax' });
  assert.match(value, /^[\w-]{43,}$/);
  for (const cookie of await profile.cookies(gateway.origin)) {
    assert.equal(cookie.httpOnly, true);
    assert.ok(![...provider.secrets].some((secret) => cookie.value.includes(secret)), `${cookie.name} holds a token`);
  }
  assert.equal(await page.evaluate(() => document.cookie + localStorage.length + sessionStorage.length), '00');
});

browserCase('two tabs that sign in at once return each to its own page', async (profile) => {
  const targets = ['/anything/tab-one?n=1', '/anything/tab-two?n=2'].map((path) => gateway.origin + path);
  const tabs = await Promise.all(targets.map(() => profile.newPage()));
  await Promise.all(tabs.map((tab, index) => tab.goto(targets[index])));
  tabs.forEach((tab) => isAt(tab, provider.origin));

  // The first to open is the last to finish.
  await signIn(tabs[1], gateway.origin);
  await signIn(tabs[0], gateway.origin);
  assert.deepEqual(tabs.map((tab) => tab.url()), targets);
});

browserCase('a sign-in cancelled at the provider ends on a page that says so, without a session', async (profile) => {
  const page = await profile.newPage();
  await page.goto(`${gateway.origin}/anything/cancelled`);
  const answered = page.waitForResponse((response) => response.url().startsWith(`${gateway.origin}/auth/corp`));
  await page.getByRole('button', { name: 'Cancel' }).click();

  const answer = await answered;
  assert.ok(answer.status() >= 400 && answer.status() < 500, `status ${answer.status()}`);
  assert.equal(answer.headers()['cache-control'], 'no-store');
  isAt(page, gateway.origin);
  await screenshot(page, '3 sign-in cancelled');
  // Not from the page: its policy lets nothing be fetched.
  assert.equal((await profile.request.get(`${gateway.origin}/auth/me`)).status(), 401);
});

browserCase('the profile endpoints tell the claims of whoever is signed in, and nothing of another browser', async (profile) => {
  const page = await signedInAt(profile, '/anything/profile');

  for (const path of ['/auth/me', '/api/user/me']) {
    const { status, headers, body } = await fetchFrom(page, path);
    assert.equal(status, 200);
    assert.equal(headers['cache-control'], 'no-store');
    const claims = JSON.parse(body);
    assert.equal(claims.sub, 'grace');
    assert.equal(claims.email, 'grace@example.com');
    assert.equal(claims.provider, 'corp');
    assert.ok(Number.isInteger(claims.iat) && claims.exp > claims.iat);
  }
  assert.equal((await fetch(`${gateway.origin}/auth/me`)).status, 401);
});

browserCase('auth = "optional" attaches the token once there is one, auth = false never', async (profile) => {
  const received = async (page, path) => JSON.parse((await fetchFrom(page, path)).body).headers;
  const stranger = await profile.newPage();
  await stranger.goto(`${gateway.origin}/html`);
  isAt(stranger, gateway.origin);
  assert.equal((await received(stranger, '/headers')).Authorization, undefined);

  const page = await signedInAt(profile, '/anything/optional');
  assert.match((await received(page, '/headers')).Authorization, /^Bearer /);
  const unattached = await received(page, '/get');
  assert.equal(unattached.Authorization, undefined);
  assert.equal(unattached.Cookie, undefined);
});
