// Leads the page to the login, and back, when a request of its own gets a 401 with a way to sign in.
// On the way it fires `latchgate:login` at the window, with `detail = { url, reason }`. Who cancels that event,
// or loads the script with `data-manual`, stays.
(() => {
  const here = Symbol.for('latchgate');
  if (window[here]) return;
  window[here] = 1;
  const manual = document.currentScript?.hasAttribute('data-manual');
  let leaving = false;
  // Back from the browser's cache
  addEventListener('pageshow', () => { leaving = false; });

  // Two logins in half a minute did not help: nor will a third.
  const helps = () => {
    try {
      const [before, last] = JSON.parse(sessionStorage.latchgate ?? '[0,0]');
      if (before > Date.now() - 3e4) return false;
      sessionStorage.latchgate = JSON.stringify([last, Date.now()]);
    } catch { /* none */ }
    return true;
  };

  const see = (status, from, header) => {
    if (status !== 401 || leaving || new URL(from, location).origin !== location.origin) return;
    const login = header('latchgate-login');
    if (!login) return;
    const url = new URL(login, location);
    if (url.origin !== location.origin) return;
    url.searchParams.set('return_to', location.pathname + location.search);
    const detail = { url: url.href, reason: header('latchgate-reason') };
    const stays = !dispatchEvent(new CustomEvent('latchgate:login', { cancelable: true, detail }));
    if (manual || stays || !helps()) return;
    leaving = true;
    location.assign(url);
  };

  const { fetch } = window;
  window.fetch = async (...request) => {
    const answer = await fetch(...request);
    see(answer.status, answer.url, (name) => answer.headers.get(name));
    return answer;
  };

  const { send } = XMLHttpRequest.prototype;
  XMLHttpRequest.prototype.send = function (...body) {
    this.addEventListener('load', () => {
      see(this.status, this.responseURL, (name) => this.getResponseHeader(name));
    }, { once: true });
    return send.apply(this, body);
  };
})();
