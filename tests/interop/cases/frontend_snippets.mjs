// Runs every snippet of docs/frontends.md as it stands there, with the packages it is for, in a browser behind the gateway. What is about
// logins runs with the configuration that stands beside it.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { extname, join } from 'node:path';
import { after, test } from 'node:test';
import { startGateway } from '../gateway.mjs';
import { jsonBackend } from '../json_backend.mjs';
import { freePort, listen } from '../processes.mjs';
import { browserCase } from './steps.mjs';

const root = join(import.meta.dirname, '../../..');
const document = readFileSync(join(root, 'docs/frontends.md'), 'utf8');
const snippets = snippetsOf(document);
const used = new Set();

const application = createServer(answer);
const backend = await listen(application);
const elsewhere = createServer(answer);
// Another origin of the same site.
const otherOrigin = (await listen(elsewhere)).replace('127.0.0.1', 'localhost');
const port = await freePort();
const origin = `http://localhost:${port}`;
const site = await startGateway('gateway-front-ends', origin, config());

after(async () => {
  await site.stop();
  for (const server of [application, elsewhere]) {
    server.closeAllConnections();
    server.close();
  }
});

/** Pages that show who is signed in, as the backend saw it, on a click at "Go". */
const ASKING_PAGES = {
  'script fetch': { head: snippet('script'), script: `go(async () => (await (await fetch('/api/who')).json()).sub);` },
  'script axios': {
    head: snippet('script'),
    script: `import axios from 'axios'; go(async () => (await axios.get('/api/who')).data.sub);`,
  },
  'script htmx': { head: snippet('script') + library('/npm/htmx2/dist/htmx.js'), body: snippet('htmx') },
  manual: { head: snippet('manual'), script: `go(async () => (await (await fetch('/api/who')).json()).sub);` },
  fetch: {
    script: `import { api } from '/snippets/fetch.js'; go(async () => (await (await api('/api/who')).json()).sub);`,
  },
  axios: { script: `import { api } from '/snippets/axios.js'; go(async () => (await api.get('/who')).data.sub);` },
  nuxt: {
    // What Nuxt provides to a plugin, with its own `$fetch`.
    script: `
      import { $fetch } from 'ofetch';
      Object.assign(window, {
        $fetch, defineNuxtPlugin: (plugin) => plugin, navigateTo: (to, { external }) => external && location.assign(to),
      });
      const { default: plugin } = await import('/snippets/nuxt.js');
      const { api } = plugin().provide;
      go(async () => (await api('/api/who')).sub);`,
  },
  'htmx 2': { head: library('/npm/htmx2/dist/htmx.js'), body: snippet('htmx') },
  'htmx 4': { head: library('/npm/htmx.org/dist/htmx.js'), body: snippet('htmx') },
};

/** Pages of cases of their own. */
const OTHER_PAGES = {
  vue: {
    body: '<div id="app">{{ user ? user.name : "nobody" }}</div>',
    script: `
      import { createApp } from 'vue';
      import { useUser } from '/snippets/vue.js';
      createApp({ setup: () => ({ user: useUser() }) }).mount('#app');`,
  },
  xsrf: {},
  blank: {},
  providers: {
    body: '<ul></ul>',
    script: `import { showProviders } from '/snippets/providers.js'; showProviders(document.querySelector('ul'));`,
  },
  'cross-origin': {
    script: `
      import { api } from '/snippets/cross-origin.js';
      const gateway = new URLSearchParams(location.search).get('gateway');
      go(async () => (await (await api(gateway, '/api/who')).json()).sub);`,
  },
};

for (const name of Object.keys(ASKING_PAGES)) {
  browserCase(`front ends: ${name}: a 401 leads to the login and back, and then it works`, async (profile) => {
    const page = await profile.newPage();
    const questions = [];
    page.on('dialog', (dialog) => {
      questions.push(dialog.message());
      dialog.accept();
    });
    const path = `/pages/${encodeURIComponent(name)}?x=1`;
    await page.goto(origin + path);
    await page.getByRole('button').click();
    await signInAsAda(page);
    assert.equal(page.url(), origin + path);
    await page.getByRole('button').click();
    await page.getByText('ada', { exact: true }).waitFor();
    assert.deepEqual(questions, name === 'manual' ? ['Sign in to go on? (unauthorized)'] : []);
  });
}

browserCase('front ends: latchgate.js navigates once, leaves other answers alone, and can be told not to', async (profile) => {
  const page = await profile.newPage();
  await page.goto(`${origin}/pages/script%20fetch`);
  const seen = await page.evaluate(async () => {
    const events = [];
    addEventListener('latchgate:login', (event) => {
      events.push(event.detail);
      event.preventDefault();
    });
    const statuses = await Promise.all(['/api/who', '/public/401', '/public/ok'].map(async (path) => (await fetch(path)).status));
    return { events, statuses };
  });
  assert.deepEqual(seen.statuses, [401, 401, 200]);
  assert.deepEqual(seen.events, [{
    url: `${origin}/auth/login?return_to=%2Fpages%2Fscript%2520fetch&status=unauthorized`, reason: 'unauthorized',
  }]);
  assert.equal(page.url(), `${origin}/pages/script%20fetch`);

  const visits = [];
  page.on('request', (request) => {
    if (request.isNavigationRequest()) visits.push(new URL(request.url()).pathname);
  });
  await page.reload();
  await page.evaluate(() => {
    for (let number = 0; number < 5; number += 1) fetch('/api/who');
  });
  await page.getByRole('link', { name: 'Ada Example' }).waitFor();
  assert.equal(visits.filter((path) => path === '/auth/login').length, 1);
});

browserCase('front ends: vue: who is signed in', async (profile) => {
  const page = await profile.newPage();
  await page.goto(`${origin}/pages/vue`);
  await page.getByText('nobody', { exact: true }).waitFor();
  await page.goto(`${origin}/auth/login?return_to=/pages/vue`);
  await signInAsAda(page);
  await page.getByText('Ada Example', { exact: true }).waitFor();
});

browserCase('front ends: xsrf: the snippet and axios send the header, a request without it is refused', async (profile) => {
  const page = await profile.newPage();
  await page.goto(`${origin}/auth/login?return_to=/pages/xsrf`);
  await signInAsAda(page);
  const statuses = await page.evaluate(async () => {
    await fetch('/checked/x');
    const { post } = await import('/snippets/xsrf.js');
    const { default: axios } = await import('axios');
    return [
      (await fetch('/checked/x', { method: 'POST' })).status,
      (await post('/checked/x', {})).status,
      (await axios.post('/checked/x', {})).status,
    ];
  });
  assert.deepEqual(statuses, [403, 200, 200]);
});

browserCase('front ends: cross-origin: a page of another origin signs in at the gateway and returns', async (profile) => {
  const page = await profile.newPage();
  const path = `${otherOrigin}/pages/cross-origin?gateway=${encodeURIComponent(origin)}`;
  await page.goto(path);
  await page.getByRole('button').click();
  await signInAsAda(page);
  assert.equal(page.url(), path);
  await page.getByRole('button').click();
  await page.getByText('ada', { exact: true }).waitFor();
});

browserCase('front ends: providers: a menu of the page has what the page to choose from has', async (profile) => {
  const block = configurationWith('[providers.staff]');
  await withSite('providers', block, answer, async (origin) => {
    const page = await profile.newPage();
    await page.goto(`${origin}/pages/providers`);
    await page.getByRole('link', { name: 'GitHub' }).waitFor();
    const links = () => page.getByRole('link').evaluateAll((all) => all.map((link) => [link.innerText, link.search]));
    const here = '?return_to=%2Fpages%2Fproviders';
    const menu = await links();
    assert.deepEqual(menu, [['Staff account', here], ['GitHub', here]]);
    await page.goto(`${origin}/api/who`);
    assert.deepEqual((await links()).map(([title]) => title.trim().split('\n').at(-1)), ['Staff account', 'GitHub']);
    const refused = await fetch(`${origin}/backstage/x`);
    assert.match(refused.headers.get('latchgate-login'), /[?&]provider=staff\b/);
  });
});

browserCase('front ends: json-login: the hosted form and a form of the page sign in at a backend', async (profile) => {
  const legacy = jsonBackend('nuxt');
  const block = configurationWith('preset = "nuxt"', (it) => !it.includes('capture'));
  await withSite('json-login', block, before(legacy), async (origin) => {
    const page = await profile.newPage();
    await page.goto(`${origin}/api/who`);
    const signInOnTheForm = async (password) => {
      await page.locator('input[autocomplete=username]').fill('ada');
      await page.locator('input[type=password]').fill(password);
      await page.getByRole('button').click();
    };
    await signInOnTheForm('wrong');
    await page.getByRole('alert').waitFor();
    await signInOnTheForm('right');
    await page.waitForURL(`${origin}/api/who`);
    assert.equal(await page.locator('body').innerText(), '{"sub":"ada"}');

    await profile.clearCookies();
    await page.goto(`${origin}/pages/blank`);
    const seen = await page.evaluate(async () => {
      const { signIn } = await import('/snippets/json-login.js');
      const wrong = await signIn('ada', 'wrong').catch((error) => error.message);
      const right = await signIn('ada', 'right');
      return { wrong: typeof wrong, ...right, who: await (await fetch('/api/who')).json() };
    });
    assert.deepEqual([seen.wrong, seen.user.name, seen.returnTo, seen.who], ['string', 'Ada Example', '/', { sub: 'ada' }]);
  });
});

for (const preset of ['nuxt', 'sneat', 'vuexy', 'axios']) {
  browserCase(`front ends: capture: an app for ${preset} goes on as it is, and holds no token`, async (profile) => {
    const legacy = jsonBackend(preset);
    const block = configurationWith(`preset = "${preset}"`, (it) => it.includes('capture'));
    await withSite(`capture-${preset}`, block, before(legacy), async (origin, gateway) => {
      const page = await profile.newPage();
      await page.goto(`${origin}/pages/blank`);
      const run = (steps) => page.evaluate(async ([steps, preset, names]) => {
        const app = await import(preset === 'axios' ? '/snippets/capture-axios.js' : '/snippets/capture-fetch.js');
        if (preset !== 'axios') Object.assign(app.names, names);
        const seen = [];
        for (const step of steps) {
          if (step === 'who') {
            const answer = await app.api('/api/who');
            seen.push((answer.data ?? (await answer.json())).sub);
          } else {
            const [name, ...given] = step.split(' ');
            seen.push(await app[name](...given).then(() => name, () => 'refused'));
          }
        }
        return seen;
      }, [steps, preset, legacy.shape]);

      assert.deepEqual(await run(['signIn ada wrong', 'signIn ada right', 'who']), ['refused', 'signIn', 'ada']);
      legacy.expire();
      assert.deepEqual(await run(['who', 'refresh', 'who']), ['ada', 'refresh', 'ada']);
      const held = await page.evaluate(() => JSON.stringify(localStorage));
      assert.ok(legacy.issued.length >= 4 && held.includes('latchgate-stand-in.'));
      for (const token of legacy.issued) assert.ok(!held.includes(token) && !gateway.output().includes(token));
    });
  });
}

browserCase('front ends: code-flow: the app has a token and no session cookie', async (profile) => {
  const provider = `[providers.demo]\nkind = "mock"\nusers = [{ sub = "ada", name = "Ada Example" }]\n`;
  const block = `${configurationWith('flow = "code"', (it) => !it.includes('aegis'))}${provider}[[routes]]\npath = "/api/*"\n`;
  await withSite('code-flow', block, answer, async (origin) => {
    const page = await profile.newPage();
    await page.goto(`${origin}/pages/blank?x=1`);
    const inApp = (steps) => page.evaluate(`import('/snippets/code-flow.js').then(${steps})`);
    assert.deepEqual(await inApp('async (app) => [await app.renew(), (await app.api("/api/who")).status]'), [false, 401]);
    await inApp('(app) => { app.signIn(); }');
    await signInAsAda(page);
    await page.waitForURL(`${origin}/pages/blank?x=1`);
    assert.deepEqual(await inApp('async (app) => [await app.renew(), (await (await app.api("/api/who")).json()).sub]'), [true, 'ada']);
    assert.ok((await profile.cookies(origin)).every(({ name }) => name !== 'latchgate'));
    assert.deepEqual(await inApp('async (app) => [await app.signOut(), await app.renew()].slice(1)'), [false]);
  });
});

test('front ends: every snippet has been run', () => {
  assert.deepEqual([...used].sort(), Object.keys(snippets).sort());
});

/** The text of a snippet, for a page. */
function snippet(name) {
  used.add(name);
  return snippets[name];
}

/** Fenced blocks with a name behind the language. */
function snippetsOf(text) {
  const blocks = text.matchAll(/^```(?:js|html) ([\w-]+)\n(.*?)^```$/gms);
  return Object.fromEntries([...blocks].map(([, name, body]) => [name, body]));
}

/** The only `toml` block of the document with this text in it, of those that are `wanted`. */
function configurationWith(text, wanted = () => true) {
  const blocks = [...document.matchAll(/^```toml\n(.*?)^```$/gms)].map(([, body]) => body);
  const found = blocks.filter((block) => block.includes(text) && wanted(block));
  assert.equal(found.length, 1, text);
  return found[0];
}

/** A gateway with what a block of the document says, before one server that is its pages and its backend. */
async function withSite(name, block, listener, steps) {
  const server = createServer(listener);
  const backend = await listen(server);
  const port = await freePort();
  const origin = `http://localhost:${port}`;
  const pages = ['pages', 'snippets', 'npm'].map((path) => `[[routes]]\npath = "/${path}/*"\nauth = "public"\n`);
  const gateway = await startGateway(`gateway-${name}`, origin, `
[server]
listen = "127.0.0.1:${port}"
external_url = "${origin}"
admin_listen = "off"

# A case must not wait until a young token's 401 counts.
[refresh]
cooldown = "1ms"

[upstreams.app]
url = "${backend}"

${block.replace('http://127.0.0.1:3000', backend)}
${pages.join('\n')}`, { OIDC_SECRET: 'for staff', GITHUB_SECRET: 'for github' });
  try {
    await steps(origin, gateway);
  } finally {
    await gateway.stop();
    server.closeAllConnections();
    server.close();
  }
}

/** The application, with a backend of its own. */
function before(legacy) {
  return async (request, response) => {
    if (!(await legacy.answer(request, response))) answer(request, response);
  };
}

/** The mock provider's page. */
async function signInAsAda(page) {
  await page.getByRole('link', { name: 'Ada Example' }).click();
  await page.waitForURL(/\/pages\//);
}

function library(path) {
  return `<script src="${path}"></script>`;
}

/** The application: its pages, the snippets as modules, the packages, and an API that looks at the token. */
function answer(request, response) {
  const url = new URL(request.url, 'http://application');
  const [, kind, ...rest] = decodeURIComponent(url.pathname).split('/');
  const send = (status, type, body) => response.writeHead(status, { 'content-type': type }).end(body);
  switch (kind) {
    case 'pages': return send(200, 'text/html', page({ ...ASKING_PAGES, ...OTHER_PAGES }[rest.join('/')]));
    case 'snippets': return send(200, 'text/javascript', snippet(rest[0].replace(/\.js$/, '')));
    case 'npm': {
      const file = join(import.meta.dirname, '../node_modules', ...rest);
      return send(200, extname(file) === '.map' ? 'application/json' : 'text/javascript', readFileSync(file));
    }
    case 'api': {
      const { sub } = JSON.parse(Buffer.from(request.headers.authorization.split('.')[1], 'base64url'));
      return rest[0] === 'part' ? send(200, 'text/html', `<p>${sub}</p>`) : send(200, 'application/json', JSON.stringify({ sub }));
    }
    default: return send(rest[0] === '401' ? 401 : 200, 'application/json', '{}');
  }
}

function page({ head = '', body = '<button>Go</button><output></output>', script = '' }) {
  const imports = {
    axios: '/npm/axios/dist/esm/axios.js',
    vue: '/npm/vue/dist/vue.esm-browser.prod.js',
    ofetch: '/npm/ofetch/dist/index.mjs',
    destr: '/npm/destr/dist/index.mjs',
    ufo: '/npm/ufo/dist/index.mjs',
  };
  return `<!doctype html><link rel="icon" href="data:,"><script type="importmap">${JSON.stringify({ imports })}</script>
    ${head}<body>${body}<script>
      const go = (who) => {
        document.querySelector('button').onclick = async () => {
          document.querySelector('output').textContent = await who();
        };
      };
    </script><script type="module">${script}</script>`;
}

function config() {
  return `
[server]
listen = "127.0.0.1:${port}"
external_url = "${origin}"
admin_listen = "off"

[login]
allowed_return_origins = ["${otherOrigin}"]

[providers.demo]
kind = "mock"
users = [{ sub = "ada", name = "Ada Example" }]

[upstreams.app]
url = "${backend}"

[[routes]]
path = "/*"
auth = "public"

[[routes]]
path = "/api/*"
cors = { allow_origins = ["${otherOrigin}"], allow_credentials = true }

[[routes]]
path = "/checked/*"
xsrf = true
`;
}
