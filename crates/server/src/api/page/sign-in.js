// Signs in with the token in the fragment, which browsers do not send to servers.
"use strict";
const form = document.getElementById("link");
const message = document.getElementById("message");
const token = location.hash.slice(1);

async function send(event) {
  if (event) event.preventDefault();
  const body = { token };
  for (const name of ["login", "password"]) {
    const value = form.elements[name].value;
    if (value) body[name] = value;
  }
  const answer = await fetch("/api/auth/link", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  if (answer.ok) {
    location.replace("/");
    return;
  }
  const error = await answer.json();
  const field = error.details.field;
  if (field && !form.elements.login.value) {
    // An invitation, which is not used up yet.
    document.getElementById("invited").hidden = false;
    message.textContent = "Welcome. Choose a login to have here.";
    form.elements.login.focus();
    return;
  }
  message.textContent = error.details.message;
}

if (token) {
  history.replaceState(null, "", location.pathname);
  document.getElementById("password").hidden = true;
  form.hidden = false;
  form.elements.token.value = token;
  form.addEventListener("submit", send);
}
