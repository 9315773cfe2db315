// What a user does, step by step. The same for every front end, with the gateway in front and without.

import assert from 'node:assert/strict';
import { statusOf } from './browser.mjs';

/**
 * `site`: `{ start, logIn(page), asksToLogIn(page), expire(), refreshes(), refreshesOnce, logoutEndsTokens }`. `start` is the page's
 * address, `expire` makes every access token useless, `refreshes` counts the refreshes so far, `refreshesOnce`: several requests at a time
 * share one, `logoutEndsTokens`: an access token is refused once its user has signed out. `afterStep` looks around while the page is there.
 */
export async function journey(page, seen, site, afterStep = async () => {}) {
  await page.goto(site.start);
  await site.asksToLogIn(page).waitFor();
  assert.equal(await statusOf(page, '/api/items'), 401);

  await site.logIn(page);
  await signedIn(page).waitFor();
  await press(page, 'List', 'listed');
  const listed = await items(page);
  assert.deepEqual(listed.slice(0, 2), ['anchor', 'lantern']);
  await afterStep();

  await site.expire();
  const before = await site.refreshes();
  await press(page, 'List', 'listed');
  assert.equal(await site.refreshes(), before + 1, 'refreshes for one request');

  await site.expire();
  await press(page, 'Five at once', '5 of 5');
  const forFive = await site.refreshes() - before - 1;
  assert.ok(site.refreshesOnce ? forFive === 1 : forFive >= 1, `${forFive} refreshes for five requests at once`);

  await site.expire();
  await press(page, 'Add', 'added');
  await press(page, 'List', 'listed');
  assert.deepEqual(await items(page), [...listed, 'umbrella']);
  await afterStep();

  await page.reload();
  await signedIn(page).waitFor();
  await press(page, 'List', 'listed');
  const authorization = await seen.lastAuthorization();
  assert.match(authorization, /^Bearer /);
  await afterStep();

  await page.getByRole('button', { name: 'Sign out' }).click();
  await site.asksToLogIn(page).waitFor();
  assert.equal(await statusOf(page, '/api/items'), 401);
  if (!site.logoutEndsTokens) await site.expire();
  assert.equal(await statusOf(page, '/api/items', { authorization }), 401);
  await afterStep();

  await page.reload();
  await site.asksToLogIn(page).waitFor();
}

/** Presses a button and waits until the page says how it went. */
export async function press(page, button, outcome) {
  await page.getByRole('button', { name: button, exact: true }).click();
  await page.getByRole('status').filter({ hasText: outcome }).waitFor();
}

export const signedIn = (page) => page.getByText('Signed in as Grace Hopper');

const items = (page) => page.getByRole('listitem').allTextContents();
