// What the cases have in common.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { screenshot, signIn } from '../browser.mjs';
import { browser, gateway, provider } from '../setup.mjs';

/** Values of every cookie a browser was given: none of them may be in the gateway's log. */
export const cookieValues = new Set();

/** A case with a fresh browser profile; a failure leaves a picture of each open page. */
export function browserCase(name, steps, options) {
  test(name, { timeout: 60_000 }, async () => {
    provider.issueAccessTokensFor();
    provider.delayTokensBy(0);
    const profile = await browser.profile(options);
    profile.on('response', async (response) => {
      for (const line of await response.headerValues('set-cookie').catch(() => [])) {
        const [, value] = line.match(/^[^=]+=([^;]*)/) ?? [];
        if (value?.length >= 16) cookieValues.add(value);
      }
    });
    try {
      await steps(profile);
    } catch (error) {
      for (const [index, page] of profile.pages().entries()) {
        await screenshot(page, `FAILED ${name.replaceAll(/\W+/g, '-')}-${index}`).catch(() => {});
      }
      throw error;
    } finally {
      await profile.close();
    }
  });
}

/** Opens `path` of the gateway in a new tab and signs in on the way. */
export async function signedInAt(profile, path, login) {
  const page = await profile.newPage();
  await page.goto(gateway.origin + path);
  await signIn(page, gateway.origin, login);
  assert.equal(page.url(), gateway.origin + path);
  return page;
}

/** `fetch` as a script of the page does it: `{ status, headers, body }`. */
export function fetchFrom(page, path, options = {}) {
  return page.evaluate(async ([path, options]) => {
    const answer = await fetch(path, options);
    return { status: answer.status, headers: Object.fromEntries(answer.headers), body: await answer.text() };
  }, [path, options]);
}

/** The session's cookie in this profile, if there is one. */
export async function sessionCookie(profile) {
  const cookies = await profile.cookies(gateway.origin);
  return cookies.find(({ name }) => name === 'latchgate');
}

/** The `Cookie` header that carries this profile's session. */
export async function cookieHeader(profile) {
  const { name, value } = await sessionCookie(profile);
  return `${name}=${value}`;
}

/** `url` is the gateway's login with exactly these parameters. */
export function isLogin(url, parameters) {
  const { pathname, searchParams } = new URL(url, gateway.origin);
  assert.deepEqual({ pathname, ...Object.fromEntries(searchParams) }, { pathname: '/auth/login', ...parameters });
}

export const isAt = (page, origin) => assert.equal(new URL(page.url()).origin, origin);
