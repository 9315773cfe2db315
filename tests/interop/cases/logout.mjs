import assert from 'node:assert/strict';
import { screenshot } from '../browser.mjs';
import { eventually } from '../processes.mjs';
import { gateway, provider } from '../setup.mjs';
import { browserCase, cookieHeader, fetchFrom, isAt, sessionCookie, signedInAt } from './steps.mjs';

browserCase('logging out ends the session here and at the provider, and comes back', async (profile) => {
  const page = await signedInAt(profile, '/anything/logout');
  const cookie = await cookieHeader(profile);

  await page.evaluate(() => location.assign('/auth/logout'));
  await page.waitForURL((url) => url.origin === provider.origin);
  assert.equal(await sessionCookie(profile), undefined);
  await screenshot(page, '4 sign out at the provider');
  await page.getByRole('button', { name: 'Sign out' }).click();
  // The provider brings the `state` back; nobody here asks for it.
  await page.waitForURL((url) => url.origin === gateway.origin && url.pathname === '/html');

  await page.goto(`${gateway.origin}/anything/logout`);
  isAt(page, provider.origin);
  await page.getByLabel('Password').waitFor();

  const replayed = await fetch(`${gateway.origin}/auth/me`, { headers: { cookie } });
  assert.equal(replayed.status, 401);
});

browserCase('POST /auth/logout signs out a script, revokes the token, and may be repeated', async (profile) => {
  const page = await signedInAt(profile, '/anything/script-logout');
  const { token } = JSON.parse((await fetchFrom(page, '/bearer')).body);

  for (let times = 0; times < 2; times += 1) {
    const { status, body } = await fetchFrom(page, '/auth/logout', { method: 'POST' });
    assert.equal(status, 200);
    assert.deepEqual(JSON.parse(body), { success: true });
  }
  assert.equal((await fetchFrom(page, '/bearer')).status, 401);
  assert.equal(await sessionCookie(profile), undefined);
  await eventually(async () => {
    const answer = await fetch(`${provider.origin}/me`, { headers: { authorization: `Bearer ${token}` } });
    return answer.status === 401;
  }, 'the provider to know that the token is void');
});
