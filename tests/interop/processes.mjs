// Child processes, free ports and waiting. Every child is killed when this process ends, however it ends.

import { spawn } from 'node:child_process';
import { createWriteStream, mkdirSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

export const workDirectory = join(import.meta.dirname, '.work');
const children = new Set();

/** Starts a program; stdout and stderr go to `.work/logs/<name>.log` and into `output()`. */
export function start(name, command, args, { env = {}, cwd = workDirectory } = {}) {
  // A process group of its own, so that the workers of a server end with it.
  const child = spawn(command, args, {
    cwd, env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'], detached: true,
  });
  const log = openLog(name);
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text) => {
      output += text;
      log.write(text);
    });
  }
  children.add(child);
  // 'close' rather than 'exit': the last lines of the log have been read by then.
  const ended = new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code, signal) => {
      children.delete(child);
      resolve({ code, signal });
    });
  });
  ended.catch(() => {});

  /** Resolves as `work` does, or rejects with the output when the program ends first. */
  const whileRunning = (work) => Promise.race([work, ended.then(({ code, signal }) => {
    throw new Error(`${name} ended with ${signal ?? code}:\n${output.slice(-4000)}`);
  })]);

  return {
    output: () => output,
    whileRunning,
    /** Resolves to the first match of `pattern` in the output. */
    saw: (pattern) => whileRunning(eventually(() => output.match(pattern), `${name} to print ${pattern}`)),
    /** Resolves to `{ code, signal }` when the program has ended. */
    ended,
    signal: (signal) => child.kill(signal),
    /** Sends SIGTERM and resolves as `ended` does; SIGKILL follows after `patience` ms. */
    async stop(patience = 5_000) {
      child.kill('SIGTERM');
      const impatience = setTimeout(() => child.kill('SIGKILL'), patience);
      return ended.finally(() => clearTimeout(impatience));
    },
  };
}

/** A log file of this run under `.work/logs`. */
export function openLog(name) {
  const directory = join(workDirectory, 'logs');
  mkdirSync(directory, { recursive: true });
  return createWriteStream(join(directory, `${name}.log`));
}

/** A TCP port nobody listened on a moment ago. */
export async function freePort() {
  const server = createServer().listen(0, '127.0.0.1');
  await new Promise((resolve, reject) => server.once('listening', resolve).once('error', reject));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** Listens on a free loopback port (or `port`) and resolves to its origin. */
export async function listen(server, port = 0) {
  server.listen(port, '127.0.0.1');
  await new Promise((resolve, reject) => server.once('listening', resolve).once('error', reject));
  return `http://127.0.0.1:${server.address().port}`;
}

/** Tries until `probe` gives something truthy; what it throws counts as "not yet". */
export async function eventually(probe, what, timeout = 10_000) {
  const deadline = performance.now() + timeout;
  for (let last; ; ) {
    try {
      const value = await probe();
      if (value) return value;
    } catch (error) {
      last = error;
    }
    if (performance.now() > deadline) throw new Error(`waited ${timeout} ms in vain for ${what}`, { cause: last });
    await sleep(50);
  }
}

process.on('exit', () => children.forEach((child) => child.pid && process.kill(-child.pid, 'SIGKILL')));
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => process.exit(1));
