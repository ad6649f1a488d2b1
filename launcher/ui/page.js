// What the browser does by itself: keep the conversation in this tab, show the session's state, count down.
// Served by frame.py. `page` is what the Gradio events in chat.py call.
"use strict";

window.page = (() => {
  const REFRESH_MS = 10000;
  const KEEP_AFTER_MS = 300; // a streamed answer changes twenty times a second
  const EMPTY = [[], "", null, null, null];

  // --- the conversation: in sessionStorage, which one tab has for itself ---------------------------------------
  // All apps of a portal share one origin, so the name holds the path, and nothing is put where other tabs can read it.
  const place = () => "launcher-chat:" + new URL(document.baseURI).pathname;
  let waiting;

  const keep = (all) => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      try {
        sessionStorage.setItem(place(), JSON.stringify(all));
      } catch {
        // full or forbidden: the chat works all the same, a reload starts anew
      }
    }, KEEP_AFTER_MS);
  };

  const kept = () => {
    try {
      return JSON.parse(sessionStorage.getItem(place())) || EMPTY;
    } catch {
      return EMPTY;
    }
  };

  // The copy button of an answer would take our footnote along (see transcript.py for the mark it begins with).
  if (navigator.clipboard) {
    const write = navigator.clipboard.writeText.bind(navigator.clipboard);
    navigator.clipboard.writeText = (text) => write(text.replace(/\n*\u2063.*/g, ""));
  }

  document.addEventListener("submit", (event) => {
    if (event.target.closest(".panel")) sessionStorage.removeItem(place()); // "Log out" leaves nothing behind
  });

  // --- the session's state -------------------------------------------------------------------------------------
  let known = null;
  let readAt = 0;

  const spell = (seconds) => {
    const minutes = Math.floor(seconds / 60);
    if (minutes < 1) return "less than a minute";
    if (minutes < 120) return minutes + " min";
    return Math.floor(minutes / 60) + " h " + (minutes % 60) + " min";
  };

  const put = (name, text) => {
    for (const element of document.querySelectorAll(`[data-session="${name}"]`)) {
      if (element.textContent !== text) element.textContent = text;
    }
  };

  const notice = (text) => {
    put("notice", text);
    for (const element of document.querySelectorAll('[data-session="notice"]')) element.hidden = !text;
  };

  const show = () => {
    if (!known) return;
    const passed = (performance.now() - readAt) / 1000;
    const left = (seconds) => (seconds === null ? null : Math.max(0, seconds - passed));
    const ends = left(known.ends_in_s);
    const idle = left(known.idle_in_s);
    const ready = known.state === "READY";
    document.documentElement.dataset.session = ready ? (known.ends_soon ? "soon" : "ready") : "away";
    put("state", ready ? (ends === null ? "Ready" : spell(ends) + " left") : known.message || known.state || "");
    put("ends", ends === null ? "no limit" : spell(ends));
    put("idle", idle === null ? "never" : "in " + spell(idle));
    put("model", known.revision ? `${known.model} @ ${known.revision}` : known.model);
    put("hardware", known.hardware);
    put("job", [known.job, known.host].filter(Boolean).join(" on ") || "–");
    notice(ready ? (known.ends_soon ? known.message : "") : [known.message, known.hint].filter(Boolean).join(" "));
  };

  const gone = (text) => {
    document.documentElement.dataset.session = "away";
    put("state", text);
    notice(text + " Open it again from its card, or start a new one. This conversation stays here until you close the tab.");
  };

  const refresh = async () => {
    if (document.hidden) return;
    try {
      const answer = await fetch(new URL("session", document.baseURI), { cache: "no-store" });
      if (answer.status === 401) return gone("You are logged out of this session.");
      if (!answer.ok) return gone("The session cannot be reached.");
      known = await answer.json();
      readAt = performance.now();
      show();
    } catch {
      gone("The session cannot be reached.");
    }
  };

  // Names for screen readers where Gradio has none or an odd one; the visible words are in page.css.
  const names = {
    "#side:not(.open) > .toggle-button": "Settings, session and code",
    "#side.open > .toggle-button": "Close settings, session and code",
    "#entry .submit-button": "Send",
    "#entry .stop-button": "Stop",
    "#entry textarea": "Your message", // its label element holds the button as well, and would be "Your message Send"
  };
  const label = () => {
    for (const [selector, name] of Object.entries(names)) {
      for (const element of document.querySelectorAll(selector)) {
        if (element.ariaLabel !== name) element.ariaLabel = name;
      }
    }
    const toggle = document.querySelector("#side > .toggle-button");
    if (toggle) toggle.ariaExpanded = String(toggle.parentElement.classList.contains("open"));
  };

  document.addEventListener("visibilitychange", refresh);
  setInterval(refresh, REFRESH_MS);
  setInterval(show, 1000);

  // Gradio builds the page after loading: fill the panel as soon as it is there.
  new MutationObserver((_, watching) => {
    if (!["top", "side", "entry"].every((id) => document.getElementById(id))) return;
    watching.disconnect();
    label();
    refresh();
    for (const id of ["side", "entry"]) {
      const part = document.getElementById(id);
      new MutationObserver(label).observe(part, { childList: true, subtree: true, attributeFilter: ["class"] });
    }
  }).observe(document.documentElement, { childList: true, subtree: true });

  return { keep, kept };
})();
