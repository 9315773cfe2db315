// The suite of front ends: one run of everything, in this order. See README.md. Plain imports would not wait for each other.

await import('./cases/json_backends.mjs');
await import('./cases/aegis.mjs');
await import('./cases/end.mjs');
