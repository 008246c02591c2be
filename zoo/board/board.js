// Keeps the page as the server draws it. Elements stay where they are, so that focus, open answers and the chosen
// axis stay too. A hidden page asks for nothing.
"use strict";
const live = document.getElementById("live");
const sign = document.getElementById("sign");
// What the reader sets.
const READERS = new Set(["open", "checked"]);
let events = null;

function patch(old, fresh) {
  if (old.nodeName !== fresh.nodeName) { old.replaceWith(fresh); return; }
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  for (const { name, value } of [...fresh.attributes])
    if (!READERS.has(name) && old.getAttribute(name) !== value) old.setAttribute(name, value);
  for (const { name } of [...old.attributes])
    if (!READERS.has(name) && !fresh.hasAttribute(name)) old.removeAttribute(name);
  patchInside(old, fresh);
}

function patchInside(old, fresh) {
  const named = new Map([...old.children].filter(child => child.id).map(child => [child.id, child]));
  let at = old.firstChild;
  for (const child of [...fresh.childNodes]) {
    const same = child.id ? named.get(child.id) : at && !at.id ? at : null;
    if (!same) { old.insertBefore(child, at); continue; }
    if (same !== at) old.insertBefore(same, at);
    at = same.nextSibling;
    patch(same, child);
  }
  while (at) { const next = at.nextSibling; at.remove(); at = next; }
}

function show(state) {
  if (sign.dataset.state === state) return;
  sign.dataset.state = state;
  sign.textContent = { live: "live", lost: "connection lost, trying again" }[state];
}

function begin() {
  if (events) return;
  events = new EventSource("/events?of=" + encodeURIComponent(live.dataset.address));
  events.onopen = () => show("live");
  events.onerror = () => {
    show("lost");
    // A server that refuses is not asked again by the browser itself.
    if (events.readyState === EventSource.CLOSED) { end(); setTimeout(() => document.hidden || begin(), 5000); }
  };
  events.onmessage = event => {
    const page = new DOMParser().parseFromString("<div>" + JSON.parse(event.data) + "</div>", "text/html");
    patchInside(live, page.body.firstChild);
  };
}

function end() { if (events) events.close(); events = null; }

document.addEventListener("visibilitychange", () => document.hidden ? end() : begin());
if (live) begin();
