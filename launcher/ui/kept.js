// The transcribe page's work across a reload: transcripts with their edits, in the storage of this tab.
// Not in the browser's shared one: all apps of a portal have one origin, and could read what was said in an interview.
"use strict";

(() => {
  const KEEP_AFTER_MS = 800;
  const FIELDS = ["id", "name", "kind", "path", "size", "modified", "state", "said", "settings", "cursor", "done_s", "duration_s"];
  FIELDS.push("language", "probability", "lines", "unsaved", "took_s");

  const place = () => "launcher-transcribe:" + new URL(document.baseURI).pathname;
  const waiting = new Map(); // id → item, to be written
  let timer;
  let closed = false; // after "Log out"

  const put = (key, value) => {
    try {
      sessionStorage.setItem(key, JSON.stringify(value));
      return true;
    } catch {
      sessionStorage.removeItem(key); // full: rather nothing than an old state
      return false;
    }
  };

  const write = () => {
    clearTimeout(timer);
    if (closed) return;
    for (const [id, item] of waiting) {
      item.kept = put(`${place()}#${id}`, Object.fromEntries(FIELDS.map((name) => [name, item[name] ?? null])));
    }
    waiting.clear();
  };

  page.keep = (item) => {
    waiting.set(item.id, item);
    clearTimeout(timer);
    timer = setTimeout(write, KEEP_AFTER_MS);
  };

  page.forget = (item) => {
    waiting.delete(item.id);
    sessionStorage.removeItem(`${place()}#${item.id}`);
  };

  // The order of the queue, what is chosen in it, and the settings.
  page.keepRest = (rest) => closed || put(place(), rest);

  page.keptRest = () => {
    try {
      return JSON.parse(sessionStorage.getItem(place())) || {};
    } catch {
      return {};
    }
  };

  page.keptItem = (id) => {
    try {
      return JSON.parse(sessionStorage.getItem(`${place()}#${id}`));
    } catch {
      return null;
    }
  };

  window.addEventListener("pagehide", write);
  document.addEventListener("submit", (event) => {
    if (!event.target.closest(".panel")) return; // "Log out" leaves nothing behind
    closed = true;
    for (const key of Object.keys(sessionStorage)) if (key.startsWith(place())) sessionStorage.removeItem(key);
  });
})();
