import assert from 'node:assert/strict';
import { test } from 'node:test';
import { startGateway, suiteConfig } from '../gateway.mjs';
import { eventually, freePort } from '../processes.mjs';
import { CLIENT_ID, CLIENT_SECRET, startProvider } from '../provider.mjs';
import { echo, events, httpbin, userinfo } from '../setup.mjs';

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
  });
  const gateway = await startGateway('gateway-before-provider', origin, config, { OIDC_SECRET: CLIENT_SECRET });
  const login = () => fetch(`${origin}/auth/corp`, { redirect: 'manual' });
  let provider;
  try {
    assert.equal((await fetch(`${origin}/html`)).status, 200);
    const refusal = await login();
    assert.ok([502, 503].includes(refusal.status), `status ${refusal.status}`);
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
