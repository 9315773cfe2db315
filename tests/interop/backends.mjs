// The backends behind the gateway. None of them knows of it.

import { createHash } from 'node:crypto';
import { createServer, request as send } from 'node:http';
import { join } from 'node:path';
import grpc from '@grpc/grpc-js';
import protoLoader from '@grpc/proto-loader';
import { WebSocketServer } from 'ws';
import { listen, start, workDirectory } from './processes.mjs';

/** PyPI `httpbin`, as published, under gunicorn: it echoes what it received. */
export async function startHttpbin() {
  const gunicorn = join(workDirectory, 'venv', 'bin', 'gunicorn');
  const httpbin = start('httpbin', gunicorn, ['--bind', '127.0.0.1:0', '--threads', '16', 'httpbin:app']);
  const [, origin] = await httpbin.saw(/Listening at: (http:\/\/127\.0\.0\.1:\d+)/);
  return { origin, stop: () => httpbin.stop() };
}

/**
 * Passes every request on to `target` unchanged and notes it with the status it got:
 * `{ method, url, headers, bodyLength, bodyDigest, status }`.
 */
export async function startRecorder(target) {
  const exchanges = [];
  const server = createServer(async (request, response) => {
    const body = Buffer.concat(await request.toArray());
    const exchange = {
      method: request.method,
      url: request.url,
      headers: request.headers,
      bodyLength: body.length,
      bodyDigest: digest(body),
      status: null,
    };
    exchanges.push(exchange);
    const { hostname, port } = new URL(target);
    send({ hostname, port, method: request.method, path: request.url, headers: request.rawHeaders }, (answer) => {
      exchange.status = answer.statusCode;
      response.writeHead(answer.statusCode, answer.statusMessage, answer.rawHeaders);
      answer.pipe(response);
    }).on('error', () => response.destroy()).end(body);
  });
  return {
    origin: await listen(server),
    /** What has passed since the last call. */
    take: () => exchanges.splice(0),
    stop: () => closed(server),
  };
}

/** Server-sent events: `first` at once, and each further one when the case asks for it. */
export async function startEvents() {
  const open = new Set();
  const server = createServer((request, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache' });
    response.write('data: first\n\n');
    open.add(response);
    response.on('close', () => open.delete(response));
  });
  return {
    origin: await listen(server),
    listeners: () => open.size,
    send: (data) => open.forEach((response) => response.write(`data: ${data}\n\n`)),
    stop: () => closed(server),
  };
}

/** npm `ws` echoing messages; it notes the headers of each upgrade. */
export async function startWebSocketEcho() {
  const server = createServer();
  const upgrades = [];
  const sockets = new WebSocketServer({ server });
  sockets.on('connection', (socket, request) => {
    upgrades.push(request.headers);
    socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary }));
  });
  return {
    origin: await listen(server),
    upgrades,
    async stop() {
      sockets.clients.forEach((socket) => socket.terminate());
      await closed(server);
    },
  };
}

const talk = protoLoader.loadSync(join(import.meta.dirname, 'talk.proto'));

/** The client's side of `talk.proto`. */
export const talkService = grpc.loadPackageDefinition(talk).interop.Talk;

/** npm `@grpc/grpc-js` serving `talk.proto`; it notes the metadata and the deadline of each call. */
export async function startCalls() {
  const metadata = [];
  const deadlines = [];
  const note = (method) => (call, answer) => {
    metadata.push(call.metadata);
    deadlines.push(Number(call.getDeadline()));
    method(call, answer);
  };
  const server = new grpc.Server();
  server.addService(talkService.service, Object.fromEntries(Object.entries({
    Say: ({ request }, answer) => answer(null, request),
    Split(call) {
      for (const text of call.request.text.split(' ')) call.write({ text });
      call.end();
    },
    Join(call, answer) {
      let all = '';
      call.on('data', ({ text }) => { all += text; }).on('end', () => answer(null, { text: all }));
    },
    Chat: (call) => call.on('data', (words) => call.write(words)).on('end', () => call.end()),
    Fail({ request }, answer) {
      const why = new grpc.Metadata();
      why.set('x-why', 'because');
      answer({ code: grpc.status.NOT_FOUND, details: `no ${request.text}, grüße`, metadata: why });
    },
    Wait() {},
  }).map(([name, method]) => [name, note(method)])));
  const port = await new Promise((resolve, reject) => {
    const bound = (error, port) => (error ? reject(error) : resolve(port));
    server.bindAsync('127.0.0.1:0', grpc.ServerCredentials.createInsecure(), bound);
  });
  return {
    origin: `http://127.0.0.1:${port}`,
    metadata,
    deadlines,
    stop: async () => server.forceShutdown(),
  };
}

export const digest = (bytes) => createHash('sha256').update(bytes).digest('hex');

async function closed(server) {
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
}
