// Leads the page to the login, and back, when a request of its own gets a 401 with a way to sign in.
//   <script src="/auth/latchgate.js"></script>
// On the way it fires `latchgate:login` at the window, with `detail = { url, reason }`. Who cancels that event,
// or loads the script with the attribute `data-manual`, stays and sees to the rest.
(() => {
  const manual = document.currentScript?.hasAttribute('data-manual');
  let leaving = false;
  // A page that the browser brings back from its cache is here again.
  addEventListener('pageshow', () => { leaving = false; });

  const see = (status, from, header) => {
    if (status !== 401 || leaving || new URL(from).origin !== location.origin) return;
    const login = header('latchgate-login');
    if (!login) return;
    const url = new URL(login, location.origin);
    if (url.origin !== location.origin) return;
    url.searchParams.set('return_to', location.pathname + location.search);
    const detail = { url: url.href, reason: header('latchgate-reason') };
    const stays = !dispatchEvent(new CustomEvent('latchgate:login', { cancelable: true, detail }));
    if (manual || stays) return;
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
