const page = document.currentScript.dataset;
const code = new URLSearchParams(location.search).get("code");
history.replaceState(null, "", location.pathname);
// The answer is not read: the app asks for a token of its own when it starts.
fetch(page.exchange, {
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify({ code }),
}).then((answer) => {
  if (!answer.ok) throw answer;
  location.replace(page.onward);
}).catch(() => {
  document.getElementById("waiting").hidden = true;
  document.getElementById("failed").hidden = false;
});
