import assert from 'node:assert/strict';
import { test } from 'node:test';
import { latchgate, minimalConfig, startGateway, suiteConfig } from '../gateway.mjs';
import { eventually, freePort } from '../processes.mjs';
import { CLIENT_ID, CLIENT_SECRET, startProvider } from '../provider.mjs';
import { calls, echo, events, gateway as shared, httpbin, userinfo } from '../setup.mjs';

test('it starts and serves public routes while the provider is down, and signs in once it is up', { timeout: 60_000 }, async () => {
  const [port, adminPort, providerPort] = await Promise.all([freePort(), freePort(), freePort()]);
  const origin = `http://localhost:${port}`;
  const config = suiteConfig({
    port,
    adminPort,
    issuer: `http://127.0.0.1:${providerPort}`,
    clientId: CLIENT_ID,
    httpbin: httpbin.origin,
    userinfo: userinfo.origin,
    events: events.origin,
    echo: echo.origin,
    calls: calls.origin,
  });
  const gateway = await startGateway('gateway-before-provider', origin, config, { OIDC_SECRET: CLIENT_SECRET });
  const login = () => fetch(`${origin}/auth/corp`, { redirect: 'manual' });
  let provider;
  try {
    assert.equal((await fetch(`${origin}/html`)).status, 200);
    const refusal = await login();
    assert.equal(refusal.status, 503);
    assert.match(refusal.headers.get('retry-after'), /^\d+$/);
    assert.equal(refusal.headers.get('cache-control'), 'no-store');

    provider = await startProvider({
      name: 'late-provider',
      port: providerPort,
      redirectUri: `${origin}/auth/corp`,
      postLogoutRedirectUri: `${origin}/html`,
    });
    await eventually(async () => (await login()).headers.get('location')?.startsWith(provider.origin), 'the login to start', 30_000);
  } finally {
    await provider?.stop();
    await gateway.stop();
  }
});

test('a second gateway on a port in use fails at start and says so', async () => {
  const { host } = new URL(shared.origin);
  const config = minimalConfig(host.replace('localhost', '127.0.0.1'));
  const second = latchgate('gateway-port-in-use', 'run', config);
  assert.deepEqual(await second.ended, { code: 1, signal: null });
  assert.match(second.output(), /^error: cannot listen on 127\.0\.0\.1:\d+: /m);
  assert.equal((await fetch(`${shared.origin}/html`)).status, 200);
});

test('a broken configuration stops the start with the report of `check`: every problem, its line, and no secret', async () => {
  const config = `${minimalConfig('127.0.0.1:0')}
[session]
store = "file"
secret = { env = "LATCHGATE_INTEROP_UNSET" }

[providers.corp]
kind = "oidc"
isuer = "https://login.example.com"
client_id = "app"
client_secret = "do-not-print-me"

[nonsense]
key = 1
`;
  for (const command of ['run', 'check']) {
    const gateway = latchgate(`gateway-broken-${command}`, command, config);
    assert.deepEqual(await gateway.ended, { code: 1, signal: null });
    for (const expected of [/isuer/, /did you mean `issuer`/, /nonsense/, /LATCHGATE_INTEROP_UNSET/, /gateway\.toml:\d+:\d+/, /\^/]) {
      assert.match(gateway.output(), expected);
    }
    assert.doesNotMatch(gateway.output(), /do-not-print-me/);
  }
});

test('a configuration that is missing or is no TOML stops the start', async () => {
  const gateway = latchgate('gateway-no-toml', 'run', '[server\nlisten = ');
  assert.deepEqual(await gateway.ended, { code: 1, signal: null });
  assert.match(gateway.output(), /gateway\.toml:1:\d+/);
});
