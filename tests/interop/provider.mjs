// The identity provider: npm `oidc-provider`, certified by the OpenID Foundation, with a login form and a consent
// form, rotating refresh tokens, and access tokens that live as long as the case at hand wants.

import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { createServer } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { listen, openLog } from './processes.mjs';

const { default: Provider } = await quietly(() => import('oidc-provider'));

export const ACCOUNTS = {
  grace: { password: 'hopper', claims: { name: 'Grace Hopper', email: 'grace@example.com', email_verified: true } },
  alan: { password: 'turing', claims: { name: 'Alan Turing', email: 'alan@example.com', email_verified: true } },
};

export const CLIENT_ID = 'latchgate';
// Characters that HTTP Basic and form encoding each treat differently: RFC 6749 §2.3.1 wants both applied.
export const CLIENT_SECRET = `${randomBytes(24).toString('base64url')}+/:%&=`;

/** Starts the provider for one confidential client and resolves to what the cases need of it. */
export async function startProvider({ name = 'provider', port, redirectUri, postLogoutRedirectUri }) {
  const issuer = `http://127.0.0.1:${port}`;
  const log = openLog(name);
  const counts = { authorization_code: 0, refresh_token: 0, refused: 0 };
  const secrets = new Set([CLIENT_SECRET]);
  const accessTokens = new Map();
  const grants = new Map();
  let accessTokenTtl = DEFAULT_ACCESS_TOKEN_TTL;
  let reachable = true;
  let tokenDelay = 0;

  const provider = await quietly(() => new Provider(issuer, {
    clients: [{
      client_id: CLIENT_ID,
      client_secret: CLIENT_SECRET,
      client_name: 'latchgate',
      grant_types: ['authorization_code', 'refresh_token'],
      response_types: ['code'],
      redirect_uris: [redirectUri],
      post_logout_redirect_uris: [postLogoutRedirectUri],
      token_endpoint_auth_method: 'client_secret_basic',
    }],
    jwks: { keys: [signingKey()] },
    cookies: { keys: [randomBytes(32).toString('base64url')] },
    claims: { openid: ['sub'], profile: ['name'], email: ['email', 'email_verified'] },
    scopes: ['openid', 'profile', 'email', 'offline_access'],
    findAccount: (_ctx, sub) => ACCOUNTS[sub] && { accountId: sub, claims: () => ({ sub, ...ACCOUNTS[sub].claims }) },
    // A refresh token for every login; with `offline_access` alone it would take `prompt=consent` (OIDC Core §11).
    issueRefreshToken: (_ctx, client) => client.grantTypeAllowed('refresh_token'),
    // A rotated refresh token used again voids the whole grant: two refreshes at once would sign the user out.
    rotateRefreshToken: true,
    clockTolerance: 0,
    ttl: {
      AccessToken: () => accessTokenTtl,
      Grant: 3600, IdToken: 3600, Interaction: 600, RefreshToken: 3600, Session: 3600,
    },
    features: {
      devInteractions: { enabled: false },
      introspection: { enabled: true },
      revocation: {
        enabled: true,
        allowedPolicy: (_ctx, client, token) => token.clientId === client.clientId,
      },
      rpInitiatedLogout: { enabled: true, logoutSource: logoutPage },
      userinfo: { enabled: true },
    },
    interactions: { url: (_ctx, interaction) => `/interaction/${interaction.uid}` },
    // Behind the gateway the userinfo endpoint sees the `Origin` of the page that called it.
    clientBasedCORS: (_ctx, origin) => origin === new URL(redirectUri).origin,
    renderError: (ctx, out) => { ctx.body = JSON.stringify(out); },
  }));

  const note = (...words) => log.write(`${words.join(' ')}\n`);
  provider.on('grant.success', (ctx) => {
    const { grant_type } = ctx.oidc.params;
    const { access_token, refresh_token, id_token } = ctx.body;
    counts[grant_type] += 1;
    [access_token, refresh_token, id_token].filter(Boolean).forEach((token) => secrets.add(token));
    note('token endpoint:', grant_type, 'granted');
  });
  provider.on('grant.error', (ctx, error) => {
    counts.refused += 1;
    note('token endpoint:', ctx.oidc?.params?.grant_type, 'refused:', error.error, error.error_detail);
  });
  provider.on('authorization.error', (_ctx, error) => note('authorization endpoint refused:', error.error, error.error_description));
  provider.on('server_error', (_ctx, error) => note('server error:', error.stack));
  provider.on('authorization_code.saved', (code) => secrets.add(code.jti));
  provider.on('access_token.saved', (token) => accessTokens.set(token.jti, token));
  provider.on('grant.saved', (grant) => grants.set(grant.jti, grant));

  const handle = provider.callback();
  const server = createServer(async (request, response) => {
    if (!reachable) return request.socket.destroy();
    try {
      if (request.url === '/token') await sleep(tokenDelay);
      if (!(await interaction(provider, request, response))) await handle(request, response);
    } catch (error) {
      note('failed:', request.method, request.url, error.stack);
      response.writeHead(500).end();
    }
    note(request.method, request.url.split('?')[0], response.statusCode);
  });
  await listen(server, port);

  return {
    origin: issuer,
    /** Token requests that `steps` caused: granted ones by grant type, and `refused`. */
    async tokenRequestsDuring(steps) {
      const before = { ...counts };
      await steps();
      return Object.fromEntries(Object.entries(counts).map(([name, count]) => [name, count - before[name]]));
    },
    /** Everything that must never be in a log: the client's secret, tokens, codes. */
    secrets,
    /** Seconds that access tokens issued from now on live. */
    issueAccessTokensFor(seconds = DEFAULT_ACCESS_TOKEN_TTL) { accessTokenTtl = seconds; },
    /** Milliseconds that the token endpoint takes to answer: time for other requests to meet a refresh under way. */
    delayTokensBy(milliseconds) { tokenDelay = milliseconds; },
    /** While false, every connection is dropped without an answer. */
    setReachable(yes) { reachable = yes; },
    /** Revokes every access token (RFC 7009 on a token leaves the grant alone); resource servers answer 401 from now on. */
    async revokeAccessTokens() {
      await Promise.all([...accessTokens.values()].map((token) => token.destroy()));
      accessTokens.clear();
    },
    /** Withdraws every user's consent: access and refresh tokens are void, the sign-on session stays. */
    async revokeGrants() {
      await Promise.all([...grants.values()].map((grant) => grant.destroy()));
      grants.clear();
      await this.revokeAccessTokens();
    },
    async stop() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

/** The login and consent forms; false when the request is not for them. */
async function interaction(provider, request, response) {
  const [, uid, action] = request.url.match(/^\/interaction\/([\w-]+)(?:\/(login|consent|cancel))?$/) ?? [];
  if (!uid) return false;
  const { prompt, params, session, grantId } = await provider.interactionDetails(request, response);
  const html = (body) => response.writeHead(200, { 'content-type': 'text/html; charset=utf-8', 'cache-control': 'no-store' }).end(body);

  if (!action) {
    html(prompt.name === 'login' ? loginPage(uid) : consentPage(uid, params));
  } else if (action === 'cancel') {
    const refusal = { error: 'access_denied', error_description: 'the user went away' };
    await provider.interactionFinished(request, response, refusal, { mergeWithLastSubmission: false });
  } else if (action === 'login') {
    const form = await formOf(request);
    const account = ACCOUNTS[form.get('login')];
    if (!account || account.password !== form.get('password')) {
      html(loginPage(uid, 'Wrong name or password.'));
    } else {
      const result = { login: { accountId: form.get('login') } };
      await provider.interactionFinished(request, response, result, { mergeWithLastSubmission: false });
    }
  } else {
    const grant = (grantId && (await provider.Grant.find(grantId)))
      || new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
    grant.addOIDCScope(params.scope);
    const result = { consent: { grantId: await grant.save() } };
    await provider.interactionFinished(request, response, result, { mergeWithLastSubmission: true });
  }
  return true;
}

const loginPage = (uid, problem = '') => page('Sign in', `
  <p role="alert">${problem}</p>
  <form method="post" action="/interaction/${uid}/login">
    <label>Name <input name="login" required autofocus></label>
    <label>Password <input name="password" type="password" required></label>
    <button>Sign in</button>
  </form>
  <form method="post" action="/interaction/${uid}/cancel"><button>Cancel</button></form>`);

const consentPage = (uid, params) => page('Allow access', `
  <p>${params.client_id} asks for: ${params.scope.replaceAll(/[^\w ]/g, '')}</p>
  <form method="post" action="/interaction/${uid}/consent"><button>Allow</button></form>
  <form method="post" action="/interaction/${uid}/cancel"><button>Cancel</button></form>`);

function logoutPage(ctx, form) {
  ctx.body = page('Sign out', `${form}<button type="submit" form="op.logoutForm" name="logout" value="yes">Sign out</button>`);
}

const page = (title, body) => `<!doctype html><html lang="en"><meta charset="utf-8"><title>${title}</title>
  <style>body{font:16px/1.5 sans-serif;max-width:24rem;margin:4rem auto}label{display:block;margin:.5rem 0}</style>
  <h1>${title}</h1>${body}</html>`;

async function formOf(request) {
  const chunks = await request.toArray();
  return new URLSearchParams(Buffer.concat(chunks).toString());
}

function signingKey() {
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  return { ...privateKey.export({ format: 'jwk' }), alg: 'RS256', use: 'sig', kid: 'interop' };
}

/** The package prints advice for production; here it would only hide real trouble. */
async function quietly(build) {
  const { warn, info } = console;
  console.warn = console.info = () => {};
  try {
    return await build();
  } finally {
    Object.assign(console, { warn, info });
  }
}

const DEFAULT_ACCESS_TOKEN_TTL = 600; // seconds
