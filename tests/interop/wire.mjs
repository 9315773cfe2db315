// HTTP as bytes, for what no client library would send.

import { connect } from 'node:net';

/**
 * Sends `bytes` to `origin` and resolves to all that came back until it matched `enough`, or the gateway closed, or
 * fell silent for `patience` ms.
 */
export function exchange(origin, bytes, { patience = 1_000, enough = NEVER } = {}) {
  const { port } = new URL(origin);
  return new Promise((resolve) => {
    let received = '';
    const socket = connect(port, '127.0.0.1', () => socket.write(bytes));
    const end = () => {
      socket.destroy();
      resolve(received);
    };
    socket.setTimeout(patience, end);
    socket.setEncoding('latin1').on('data', (text) => {
      received += text;
      if (enough.test(received)) end();
    });
    // A connection reset while there is still something to write is one of the right answers to garbage.
    socket.on('error', end).on('close', end);
  });
}

/** The status of the first answer, or null when the connection was closed without one. */
export async function statusOf(origin, bytes) {
  const [, status] = (await exchange(origin, bytes, { enough: STATUS_LINE })).match(STATUS_LINE) ?? [null, null];
  return status && Number(status);
}

const STATUS_LINE = /^HTTP\/1\.[01] (\d{3}) /;
const NEVER = /(?!)/;
