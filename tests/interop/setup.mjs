// Starts everything the cases share, once. Importing this file waits until all of it answers.

import { after } from 'node:test';
import { startCalls, startEvents, startHttpbin, startRecorder, startWebSocketEcho } from './backends.mjs';
import { startBrowser } from './browser.mjs';
import { startGateway, suiteConfig } from './gateway.mjs';
import { freePort } from './processes.mjs';
import { CLIENT_ID, CLIENT_SECRET, startProvider } from './provider.mjs';

const port = await freePort();
// The gateway is `localhost` and the provider `127.0.0.1`: two sites, as in life, and no shared cookies.
const origin = `http://localhost:${port}`;

export const provider = await startProvider({
  port: await freePort(),
  redirectUri: `${origin}/auth/corp`,
  postLogoutRedirectUri: `${origin}/html`,
});
export const httpbin = await startHttpbin();
/** The provider's own userinfo endpoint serves as a backend that checks tokens. */
export const userinfo = await startRecorder(provider.origin);
export const events = await startEvents();
export const echo = await startWebSocketEcho();
export const calls = await startCalls();
export const gateway = await startGateway('gateway', origin, suiteConfig({
  port,
  adminPort: await freePort(),
  issuer: provider.origin,
  clientId: CLIENT_ID,
  httpbin: httpbin.origin,
  userinfo: userinfo.origin,
  events: events.origin,
  echo: echo.origin,
  calls: calls.origin,
}), { OIDC_SECRET: CLIENT_SECRET });
export const browser = await startBrowser();

after(async () => {
  for (const part of [browser, gateway, calls, echo, events, userinfo, httpbin, provider]) await part.stop();
});
