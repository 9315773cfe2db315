// What a browser showed, held and received in one profile.

import { test } from 'node:test';
import { screenshot } from '../interop/browser.mjs';

/** Every token, code and cookie that went between browsers and servers. */
export const secrets = new Set();

/** A case with a fresh browser profile; a failure leaves a picture of each open page. `steps(page, seen)`. */
export function browserCase(browser, name, steps) {
  test(name, { timeout: 60_000 }, async () => {
    const profile = await browser.profile();
    const page = await profile.newPage();
    try {
      await steps(page, watched(profile));
    } catch (error) {
      await screenshot(page, `FAILED ${name.replaceAll(/\W+/g, '-')}`).catch(() => {});
      throw error;
    } finally {
      await profile.close();
    }
  });
}

/** Notes what the profile's pages send and receive from here on. */
function watched(profile) {
  const requests = [];
  const answers = [];
  profile.on('request', (request) => {
    requests.push(request);
    keep(request.headers().authorization?.replace('Bearer ', ''));
    keep(new URL(request.url()).searchParams.get('code'));
  });
  profile.on('response', async (response) => {
    // A redirect has no body to read.
    const body = response.status() >= 300 && response.status() < 400 ? '' : response.text();
    const answer = Promise.all([response.allHeaders(), body]);
    // What nobody asks for may get lost when the profile closes.
    answer.catch(() => {});
    answers.push(answer);
    for (const line of await response.headerValues('set-cookie').catch(() => [])) keep(line.match(/^[^=]+=([^;]*)/)?.[1]);
  });
  return {
    /** Requests of this method and path so far. */
    count: (method, path) => requests.filter((sent) => sent.method() === method && new URL(sent.url()).pathname === path).length,
    /** `Authorization` of the last request that had one. */
    async lastAuthorization() {
      const all = await Promise.all(requests.map((sent) => sent.headerValue('authorization')));
      return all.findLast((value) => value !== null);
    },
    /** Headers and bodies of all answers. Call it before the page is left: bodies go with it. */
    received: async () => JSON.stringify(await Promise.all(answers)),
  };
}

/** Short values are no secrets, and would be found anywhere. */
export function keep(secret) {
  if (secret?.length >= 16) secrets.add(secret);
}

/** Everything scripts of the page can read: storages, cookies, its address and what it shows. */
export const held = (page) => page.evaluate(() => ({
  localStorage: { ...localStorage },
  sessionStorage: { ...sessionStorage },
  cookies: Object.fromEntries(document.cookie.split('; ').filter(Boolean).map((pair) => {
    const [name, ...value] = pair.split('=');
    return [name, decodeURIComponent(value.join('='))];
  })),
  address: location.href,
  page: document.documentElement.outerHTML,
}));

/** `fetch` as a script of the page does it; its status. */
export const statusOf = (page, path, headers = {}) => page.evaluate(async ([path, headers]) => {
  const answer = await fetch(path, { headers });
  // An answer is not over before it is read.
  await answer.arrayBuffer();
  return answer.status;
}, [path, headers]);
