"use strict";
const by = (id) => document.getElementById(id);
const say = (text) => { by("said").textContent = text; };

const row = (...cells) => {
  const item = document.createElement("li");
  for (const [name, text] of cells) {
    const cell = document.createElement("span");
    cell.className = name;
    cell.textContent = text;
    item.append(cell);
  }
  return item;
};
const status = (code) => [code < 400 ? "status" : "status bad", code];

const browserSaw = (method, path, code, milliseconds) => {
  const item = row(["quiet", new Date().toISOString().slice(11, 19)], ["path", `${method} ${path}`], ["quiet", `${Math.round(milliseconds)} ms`], status(code));
  item.classList.add("new");
  by("browser").append(item);
  by("browser").scrollTop = by("browser").scrollHeight;
};

let lastCall = 0;
const backendSaw = (calls) => {
  const list = by("backend");
  list.replaceChildren(list.querySelector(".empty"));
  for (const call of calls) {
    const item = row(["quiet", call.time], ["path", `${call.method} ${call.path}`], ["quiet", call.token], status(call.status));
    if (call.id > lastCall) item.classList.add("new");
    list.append(item);
  }
  lastCall = calls.at(-1)?.id ?? lastCall;
  list.scrollTop = list.scrollHeight;
};

let expiresAt = null;
const countFrom = (seconds) => { expiresAt = performance.now() + seconds * 1000; };
const showToken = ({ fingerprint, secondsLeft }) => {
  const code = document.createElement("code");
  code.textContent = fingerprint;
  const left = document.createElement("span");
  left.id = "left";
  by("token").replaceChildren("Token ", code, left);
  expiresAt = null;
  if (secondsLeft !== null) countFrom(secondsLeft);
  count();
};
const count = () => {
  if (expiresAt === null) return;
  const seconds = Math.max(0, Math.round((expiresAt - performance.now()) / 1000));
  by("left").textContent = seconds > 0 ? `${seconds} s left` : "expired";
};

const sha256 = async (text) => {
  const hash = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text));
  return Array.from(new Uint8Array(hash), (byte) => byte.toString(16).padStart(2, "0")).join("");
};

const call = async (method, name, body) => {
  const path = `/api/demo/${name}`;
  const headers = body === undefined ? {} : { "content-type": "application/json" };
  const started = performance.now();
  const response = await fetch(path, { method, headers, body });
  browserSaw(method, path, response.status, performance.now() - started);
  if (response.status === 401) {
    say("401: there is nobody signed in, or the new token was refused again within a few seconds. Wait a moment and try again, or sign in.");
    return null;
  }
  if (!response.ok) {
    say(`The answer is ${response.status}.`);
    return null;
  }
  const answer = await response.json();
  backendSaw(answer.calls);
  if (answer.token) showToken(answer.token);
  return answer;
};

const actions = {
  async expire() {
    const answer = await call("POST", "expire");
    if (answer) say(`From now on the backend refuses token ${answer.refused}. Now call it.`);
  },
  async hello() {
    const answer = await call("GET", "hello");
    if (answer) say(`The API says: ${answer.message}`);
  },
  async echo() {
    const body = JSON.stringify({ note: "The same bytes, even when sent twice: äöü €", sent: new Date().toISOString() });
    const answer = await call("POST", "echo", body);
    if (!answer) return;
    // Without a secure context there is no crypto.subtle to compare with.
    const same = globalThis.crypto?.subtle ? (await sha256(body)) === answer.sha256 : null;
    const verdict = same === null ? "" : same ? ", byte for byte what was sent" : ", NOT what was sent";
    say(`${answer.bytes} bytes arrived, SHA-256 ${answer.sha256.slice(0, 8)}…${verdict}.`);
  },
  events() {
    const path = "/api/demo/events";
    const started = performance.now();
    const source = new EventSource(path);
    return new Promise((finished) => {
      const end = (code, text) => {
        source.close();
        browserSaw("GET", path, code, performance.now() - started);
        say(text);
        finished();
      };
      source.addEventListener("tick", (event) => {
        const { number, of } = JSON.parse(event.data);
        say(`Event ${number} of ${of}, as soon as it was sent.`);
      });
      source.addEventListener("done", async () => {
        end(200, "The stream is over: ten events, one a second.");
        const response = await fetch("/api/demo/calls");
        if (response.ok) backendSaw((await response.json()).calls);
      });
      source.addEventListener("error", () => end("failed", "The stream could not be opened, or broke off."));
    });
  },
};

for (const button of document.querySelectorAll("[data-do]")) {
  button.disabled = false;
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      await actions[button.dataset.do]();
    } catch {
      say("The gateway cannot be reached.");
    }
    button.disabled = false;
    button.focus();
  });
}
const left = by("left");
if (left) countFrom(Number(left.dataset.seconds));
setInterval(count, 1000);
by("backend").scrollTop = by("backend").scrollHeight;
