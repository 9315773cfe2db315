// The gateway as it is put before each front end.

import { startGateway } from '../interop/gateway.mjs';
import { freePort } from '../interop/processes.mjs';
import { TOKEN_LIFE, TOKEN_SECRET } from './aegis.mjs';

/** Starts a gateway before a JSON backend with the endpoints of `preset`, which serves the front end too. */
export async function gatewayBefore(backend, preset) {
  const { login, overrides = '' } = BACKENDS[preset];
  return gatewayWith(backend.origin, `
[login]
# The backend has endpoints of its own under /auth.
prefix = "/_auth"

[providers.app]
kind = "backend"
preset = "${preset}"
base_url = "${backend.origin}"
${overrides}

[[routes]]
path = "${login}"
methods = ["POST"]
upstream = "app"
auth = "public"
capture = true

[[routes]]
path = "/api/*"
upstream = "app"
auth = true
${preset === 'nuxt' ? `
[[routes]]
path = "/me"
upstream = "app"
auth = true
` : ''}
# The front end's files; its calls to refresh and sign out are answered from the session.
[[routes]]
path = "/*"
upstream = "app"
auth = "public"
`);
}

/** Starts a gateway before a Nuxt Aegis application: its own /auth in place of the module's. Logins end in `flow`. */
export const gatewayBeforeAegis = (upstream, flow) => gatewayWith(upstream, `
[login]
flow = "${flow}"

[tokens]
key = "${TOKEN_SECRET}"
issuer = "nuxt-aegis"
ttl = "${TOKEN_LIFE}s"
aliases = true
claims = { name = "name", email = "email" }

[providers.mock]
kind = "mock"
users = [{ sub = "grace", name = "Grace Hopper", email = "grace@example.com" }]

[[routes]]
path = "/api/*"
upstream = "app"
auth = true
attach = { assertion = { audience = "items" } }

[[routes]]
path = "/*"
upstream = "app"
auth = "public"
`);

async function gatewayWith(upstream, config) {
  const port = await freePort();
  const origin = `http://localhost:${port}`;
  return startGateway(`gateway-before-${new URL(upstream).port}`, origin, `
[server]
listen = "127.0.0.1:${port}"
external_url = "${origin}"
admin_listen = "off"

# Cases end tokens as soon as they have them.
[refresh]
cooldown = "1ms"

[upstreams.app]
url = "${upstream}"
${config}`);
}

// What differs between the backends, beyond what their preset says.
const BACKENDS = {
  nuxt: { login: '/login', overrides: 'login.fields = { username = "email" }' },
  sneat: { login: '/auth/login', overrides: 'login.fields = { username = "email" }\nlogout = { method = "POST", url = "/auth/logout" }' },
  vuexy: { login: '/jwt/login', overrides: 'login.fields = { username = "email" }' },
  axios: { login: '/auth/login', overrides: 'logout = { method = "POST", url = "/auth/logout" }' },
};
