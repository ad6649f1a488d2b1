// The session's state in the browser: bar, panel and notice, the two countdowns, "keep alive", and whether a question
// can be sent at all. Served by frame.py, before the other scripts; `page` is what the Gradio events and they call.
"use strict";

window.page = {
  stays: "", // what becomes of the person's work when the session ends, in the page's own words
  // What a page's scripts add to, for side.js: the parts without which it does not begin, what is called when they
  // are there, what is called after each change of the page, and names for screen readers by selector.
  parts: ["top", "side"],
  begun: [],
  changed: [],
  names: {},
  copied: (text) => text, // what of a text goes to the clipboard
  set: (element, name, value) => element.getAttribute(name) !== value && element.setAttribute(name, value),
};

(() => {
  const REFRESH_MS = 10000;
  const LAG_S = 15; // the session writes its countdown every ten seconds
  const SOON_S = 300;
  const TOLD_S = 5;
  const PRESSED_S = 2;
  const ENDED = ["SHUTDOWN", "FAILED"];

  let known = null; // what the page's process said last
  let readAt = 0;
  let away = null; // {state, text, gone} while it does not answer; gone: what was known of it no longer holds
  let renewedAt = null;
  let told = ""; // what did not work just now; a later good answer clears it
  let toldAt = 0;

  const since = (moment) => (performance.now() - moment) / 1000;
  const left = (seconds) => (seconds === null ? null : Math.max(0, seconds - since(readAt)));

  const spell = (seconds) => {
    const minutes = Math.floor(seconds / 60);
    if (minutes < 1) return "less than a minute";
    if (minutes < 120) return minutes + " min";
    return Math.floor(minutes / 60) + " h " + (minutes % 60) + " min";
  };

  const each = (name, action) => document.querySelectorAll(`[data-session="${name}"]`).forEach(action);
  const put = (name, text) => each(name, (element) => element.textContent !== text && (element.textContent = text));
  const toggle = (name, shown) => each(name, (element) => (element.hidden = !shown));

  const show = () => {
    if (known) {
      put("ends", away?.gone ? "–" : left(known.ends_in_s) === null ? "no limit" : spell(left(known.ends_in_s)));
      put("idle", away?.gone ? "–" : idleText());
      put("model", known.model);
      put("commit", known.commit || "–");
      put("hardware", known.hardware);
      put("job", [known.job, known.host].filter(Boolean).join(" on ") || "–");
    }
    const here = known && !away;
    const ready = here && known.state === "READY";
    const idle = here ? left(known.idle_in_s) : null;
    const idleSoon = ready && idle !== null && idle <= Math.min(SOON_S, known.idle_limit_s / 4);
    const soon = ready && (known.ends_soon || idleSoon);
    // The nearer end is told. Only the idle one can be put off: no button stands beside the other.
    const idleFirst = idleSoon && (!known.ends_soon || known.ends_in_s === null || known.idle_in_s < known.ends_in_s);
    document.documentElement.dataset.session = ready ? (soon ? "soon" : "ready") : known || away ? "away" : "";
    put("state", away ? away.state : ready ? readyText() : known ? known.message || known.state || "" : "");
    // Without numbers: each change is read out to those who listen to the page.
    const said = away
      ? away.text
      : !here
        ? ""
        : !ready
          ? [known.message, known.hint].filter(Boolean).join(" ")
          : idleFirst
            ? "Nobody uses this session: it stops in a few minutes."
            : known.ends_soon
              ? "This session reaches its time limit soon. " + page.stays
              : "";
    const text = [told, said].filter(Boolean).join(" ");
    put("notice", text);
    toggle("notice", text);
    const pressed = renewedAt !== null && since(renewedAt) < PRESSED_S;
    for (const name of ["keep", "renew"]) put(name, pressed ? "Kept alive" : "Keep alive");
    each("renew", (button) => {
      const shown = idleFirst || (pressed && !button.hidden);
      if (!shown && button === document.activeElement) page.write();
      button.hidden = !shown;
    });
    toggle("keep", here && known.idle_limit_s !== null);
  };

  const idleText = () => {
    if (known.idle_limit_s === null) return "never";
    return known.idle_in_s === null ? "–" : "in " + spell(left(known.idle_in_s));
  };

  const readyText = () => (known.ends_in_s === null ? "Ready" : spell(left(known.ends_in_s)) + " left");

  // --- what an answer that is none means -----------------------------------------------------------------------
  const why = () => {
    if (!known) return "";
    if (known.ends_in_s !== null && left(known.ends_in_s) < 60) return "It reached its time limit. ";
    if (known.idle_in_s !== null && left(known.idle_in_s) < 30) return "Nobody used it for a while. ";
    return "";
  };
  const ended = (reason) => ({
    state: "Ended",
    text: `This session has ended. ${reason}Start a new one from Open OnDemand or the command line. ${page.stays}`,
    gone: true,
  });
  const unreachable = () => ({
    state: "Cannot be reached",
    text: `The session cannot be reached: it has ended, or the network is down. ${why()}${page.stays}`,
    gone: true,
  });

  const meaning = async (answer) => {
    if (answer.type === "opaqueredirect") {
      return { state: "Logged out", text: "The portal wants you to log in again: reload this page. " + page.stays };
    }
    if (answer.status === 401) {
      return { state: "Logged out", text: "You are logged out of this session. Open it again from its card. " + page.stays };
    }
    const error = await answer.json().then((body) => body.error, () => null);
    if (error && error.code === "session_ended") {
      return ended(error.message.replace(/^The session has ended \(\w+\)\.\s*/, "") + " ");
    }
    if (error && error.code === "not_ready") {
      const said = error.message.replace(/^The session is not ready yet \([^)]*\)\.\s*/, "") || error.message;
      return { state: "Not ready", text: said };
    }
    // The portal answers and the session's port does not: nobody listens there any more.
    return [502, 503, 504].includes(answer.status) && !error ? ended(why()) : unreachable();
  };

  // Ask the page's process how the session is; true when it answers and the session goes on.
  const refresh = async () => {
    const wasAway = away !== null;
    try {
      const answer = await fetch(new URL("session", document.baseURI), { cache: "no-store", redirect: "manual" });
      if (answer.ok) {
        known = await answer.json();
        readAt = performance.now();
        if (renewedAt !== null && since(renewedAt) < LAG_S && known.idle_in_s !== null) {
          known.idle_in_s = Math.max(known.idle_in_s, known.idle_limit_s - since(renewedAt));
        }
        away = ENDED.includes(known.state) ? ended([known.message, known.hint, ""].filter((t) => t !== null).join(" ")) : null;
      } else {
        away = await meaning(answer);
      }
    } catch {
      away = unreachable();
    }
    if (!away && (wasAway || since(toldAt) > TOLD_S)) told = "";
    show();
    return !away;
  };

  // For a question about to be sent: throws, and says why, when nobody could answer it.
  page.reach = async () => {
    if (await refresh()) return page.tell("");
    page.tell("Not sent.");
    throw new Error("not sent: " + away.state);
  };

  page.facts = () => known;
  page.away = () => away;

  page.tell = (text) => {
    told = text;
    toldAt = performance.now();
    show();
  };

  // To where people work on.
  page.write = () => {};

  page.speak = (text) => {
    const spoken = document.getElementById("spoken");
    if (spoken) spoken.textContent = text;
  };

  const renew = async () => {
    const answer = await fetch(new URL("../keep-alive", document.baseURI), { method: "POST" }).catch(() => null);
    if (!answer || answer.status !== 204) return page.tell("The idle countdown could not be reset.");
    renewedAt = performance.now();
    setTimeout(show, PRESSED_S * 1000);
    page.tell("");
    page.speak("The idle countdown has begun again.");
    await refresh();
  };

  document.addEventListener("click", (event) => {
    if (event.target.closest('[data-session="keep"], [data-session="renew"]')) renew();
  });
  document.addEventListener("visibilitychange", () => document.hidden || refresh());
  setInterval(() => document.hidden || refresh(), REFRESH_MS);
  setInterval(show, 1000);
  page.refresh = refresh;
})();
