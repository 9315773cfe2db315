// The interop suite: one run of everything, in this order. See README.md. Plain imports would not wait for each other.

await import('./cases/login.mjs');
await import('./cases/refresh.mjs');
await import('./cases/logout.mjs');
await import('./cases/api_client.mjs');
await import('./cases/streams.mjs');
await import('./cases/grpc.mjs');
await import('./cases/pages.mjs');
await import('./cases/hostile.mjs');
await import('./cases/start.mjs');
await import('./cases/stop.mjs');
await import('./cases/frontend_snippets.mjs');
await import('./cases/demo.mjs');
await import('./cases/end.mjs');
