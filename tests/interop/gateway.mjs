// The gateway under test, as a process of its own with a configuration file, as anyone would run it.

import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { eventually, start, workDirectory } from './processes.mjs';

export const binary = process.env.LATCHGATE_BIN ?? join(import.meta.dirname, '../../target/debug/latchgate');

/** What every gateway of this run has written to stdout and stderr, by name. */
export const logs = new Map();

/** Starts the gateway with `config` (TOML) and resolves when it answers at `origin`. */
export async function startGateway(name, origin, config, env = {}) {
  const gateway = latchgate(name, 'run', config, env);
  await gateway.whileRunning(eventually(() => fetch(origin, { redirect: 'manual' }), `${name} to answer`));
  return { ...gateway, origin };
}

/** Runs a command of the binary on `config` (TOML). */
export function latchgate(name, command, config, env = {}) {
  const directory = join(workDirectory, name);
  mkdirSync(directory, { recursive: true });
  const file = join(directory, 'gateway.toml');
  writeFileSync(file, config);
  // The most talkative level there is: no level may show a secret.
  const gateway = start(name, binary, [command, '--config', file], { cwd: directory, env: { LATCHGATE_LOG: 'trace', ...env } });
  logs.set(name, gateway.output);
  return gateway;
}

/** The configuration of the suite: one OpenID provider, the backends, every kind of route. */
export const suiteConfig = ({ port, adminPort, issuer, clientId, httpbin, userinfo, events, echo, calls }) => `
[server]
listen = "127.0.0.1:${port}"
external_url = "http://localhost:${port}"
admin_listen = "127.0.0.1:${adminPort}"

[login]
after_logout = "/html"

# A case must not wait out the default of 5 s before a young token's 401 counts again.
[refresh]
cooldown = "1s"

[limits]
# Small, so that a body beyond it fits into what the backend accepts.
replay_body = "16KiB"
# Waited out by a case.
header_timeout = "3s"

[providers.corp]
kind = "oidc"
issuer = "${issuer}"
client_id = "${clientId}"
client_secret = { env = "OIDC_SECRET" }
client_auth = "client_secret_basic"
scopes = ["openid", "profile", "email", "offline_access"]

[upstreams.httpbin]
url = "${httpbin}"

[upstreams.userinfo]
url = "${userinfo}"

[upstreams.events]
url = "${events}"

[upstreams.echo]
url = "${echo}"

[upstreams.calls]
url = "${calls}"
protocol = "http2"

[[routes]]
path = "/anything/*"
upstream = "httpbin"
auth = true

[[routes]]
path = "/headers"
upstream = "httpbin"
auth = "optional"

[[routes]]
path = "/get"
upstream = "httpbin"
auth = false

[[routes]]
path = "/html"
upstream = "httpbin"
auth = "public"

[[routes]]
path = "/status/*"
upstream = "httpbin"
auth = "public"

[[routes]]
path = "/admin"
upstream = "httpbin"
auth = true
require = { groups = ["admin"] }

[[routes]]
path = "/bearer"
upstream = "httpbin"
auth = true

[[routes]]
path = "/me"
upstream = "userinfo"
auth = true

[[routes]]
path = "/events"
upstream = "events"
auth = true

[[routes]]
path = "/echo"
upstream = "echo"
auth = true

[[routes]]
path = "/interop.Talk/*"
upstream = "calls"
auth = true

# What stands before a server of gRPC may refuse a call with a status of HTTP.
[[routes]]
path = "/interop.Talk/Refuse"
upstream = "httpbin"
auth = true
replace_prefix = "/status/401"
`;

/** One public route: to `upstream`, or to the built-in demo. */
export const minimalConfig = (listen, upstream = 'demo:') => `
[server]
listen = "${listen}"
external_url = "http://${listen}"
admin_listen = "off"
drain_timeout = "2s"

[upstreams.app]
url = "${upstream}"

[[routes]]
path = "/*"
auth = "public"
`;
