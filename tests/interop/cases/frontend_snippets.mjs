// Runs every snippet of docs/frontends.md as it stands there, with the packages it is for, in a browser behind the gateway.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { extname, join } from 'node:path';
import { after, test } from 'node:test';
import { startGateway } from '../gateway.mjs';
import { freePort, listen } from '../processes.mjs';
import { browserCase } from './steps.mjs';

const root = join(import.meta.dirname, '../../..');
const snippets = snippetsOf(readFileSync(join(root, 'docs/frontends.md'), 'utf8'));
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
