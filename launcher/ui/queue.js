// The transcribe page's queue: which files are there, how far each one is, and what happens when something goes wrong.
// Owns the items and their states; rows.js draws them, hearing.js asks the session, kept.js keeps them over a reload.
"use strict";

(() => {
  const AT_ONCE = 2; // while one is listened to, the next is on its way
  const AGAIN_S = [1, 2, 4, 8, 15, 30]; // after a lost connection
  const STUCK_MOST = 5; // lost as often without getting any further
  const BUSY_LONGEST_S = 120;

  const items = [];
  const running = new Map(); // item → its request, or null between two
  let chosen = null;
  let count = 0;

  page.items = () => items;
  page.chosen = () => chosen;

  const rest = () => page.keepRest({ order: items.map(({ id }) => id), chosen: chosen?.id, settings: page.settings() });
  page.keepQueue = rest;

  const change = (item, values) => {
    Object.assign(item, values);
    page.keep(item);
    page.draw(item);
  };
  page.change = change;

  page.choose = (item) => {
    chosen = item;
    rest();
    page.drawQueue();
    page.show(item);
  };

  // --- adding ---------------------------------------------------------------------------------------------------
  const made = (values) => ({
    id: Date.now().toString(36) + (count++).toString(36),
    state: "waiting",
    said: "",
    settings: null, // as they are when its turn comes
    lines: [],
    done_s: 0,
    ...values,
  });

  const add = (item) => {
    items.push(item);
    page.keep(item);
    rest();
    page.drawQueue();
    pump();
    return item;
  };

  // What was just added is shown, unless somebody is at work on what is shown already.
  const present = (item) => {
    if (item && (!chosen || !(page.playing() || page.isEditing()))) page.choose(item);
  };

  page.addFiles = (files) => {
    let first = null;
    for (const file of files) {
      // The same file, chosen again after a reload: it can be heard again, and goes on where it was cut off.
      const known = items.find(
        (item) => item.kind === "file" && !item.file && item.name === file.name && item.size === file.size &&
          item.modified === file.lastModified,
      );
      if (!known) {
        const added = add(made({ kind: "file", name: file.name, file, size: file.size, modified: file.lastModified }));
        first ??= added;
        continue;
      }
      known.file = file;
      first ??= known;
      if (known === chosen) page.load(known);
      if (known.state === "cut") page.goOn(known);
    }
    present(first);
  };
  page.addRecording = (file) =>
    present(add(made({ kind: "recording", name: file.name, file, size: file.size, modified: file.lastModified, unsaved: true })));
  page.addPath = (path) => present(add(made({ kind: "path", name: path.split("/").filter(Boolean).at(-1) || path, path })));

  // --- what its buttons do -----------------------------------------------------------------------------------------
  page.stopItem = (item) => {
    change(item, { state: "stopped" });
    running.get(item)?.leave();
    item.wake?.();
  };

  page.goOn = (item) => {
    change(item, { state: "waiting", said: "" });
    pump();
  };

  page.anew = (item) => {
    if (item.lines.some(({ first }) => first !== undefined) && !confirm("Transcribe it again? Your changes will be lost.")) return;
    change(item, { lines: [], cursor: null, done_s: 0, settings: null, unsaved: item.kind === "recording", language: null });
    page.show(chosen);
    page.goOn(item);
  };

  page.remove = (item) => {
    if (item.unsaved && !confirm(`Remove "${item.name}"? ${item.kind === "recording" ? "The recording" : "What you changed"} is kept nowhere else.`)) return;
    if (running.has(item)) page.stopItem(item);
    const place = items.indexOf(item);
    items.splice(place, 1);
    page.forget(item);
    if (chosen === item) page.choose(items[place] || items[place - 1] || null);
    else rest();
    page.drawQueue();
  };

  // --- one after the other -------------------------------------------------------------------------------------------
  const pump = () => {
    for (const item of items) {
      if (running.size >= AT_ONCE) return;
      if (item.state === "waiting" && !running.has(item)) run(item);
    }
  };

  const readable = (item) => item.path || item.file.slice(0, 1).arrayBuffer().then(() => true, () => false);

  const run = async (item) => {
    running.set(item, null);
    item.settings ??= page.settings();
    const began = performance.now() - (item.took_s || 0) * 1000;
    let stuck = 0;
    while (item.state !== "stopped") {
      if (!(await readable(item))) {
        const said = "This file cannot be read: it was moved or changed, or is a folder. Choose it again.";
        change(item, { state: "failed", said });
        break;
      }
      const before = item.cursor;
      const end = await once(item);
      item.took_s = (performance.now() - began) / 1000;
      if (item.state === "stopped") break;
      if (end.how === "done") {
        finish(item, end);
        break;
      }
      if (end.how === "refused") {
        change(item, { state: "failed", said: end.message });
        page.speak(`${item.name}: ${end.message}`);
        break;
      }
      if (end.how === "busy") {
        await wait(item, "busy", Math.min(end.after_s, BUSY_LONGEST_S));
        continue;
      }
      stuck = item.cursor === before ? stuck + 1 : 0;
      if (!(await back(item, stuck, end.message))) break;
    }
    running.delete(item);
    page.draw(item);
    pump();
  };

  // One request, from the first byte to its end.
  const once = async (item) => {
    item.pace = null;
    change(item, { state: item.path ? "begun" : "sending", said: "", sent: 0 });
    const request = page.listen(item, page.model(), {
      sent: (bytes, of) => {
        if (item.state === "sending") Object.assign(item, { sent: bytes / of, state: bytes < of ? "sending" : "begun" });
        page.draw(item);
      },
      piece: (segments, progress) => {
        if (item.state === "stopped") return;
        item.pace ??= { at: performance.now(), done_s: item.done_s };
        const { cursor, done_s, duration_s, language, language_probability } = progress;
        grow(item, segments);
        change(item, { state: "listening", cursor, done_s, duration_s: duration_s ?? item.duration_s });
        if (language) change(item, { language, probability: language_probability });
      },
    });
    running.set(item, request);
    const end = await request.over;
    running.set(item, null);
    page.growNow(); // who sees that it is over, however, sees all that was heard
    return end;
  };

  const grow = (item, segments) => {
    if (!segments.length) return;
    item.lines.push(...segments.map(({ type, id, seek, ...line }) => line));
    page.grew(item);
  };

  const finish = (item, { event, rest: pending }) => {
    grow(item, pending);
    page.growNow();
    const duration_s = event.duration ?? event.usage?.seconds ?? item.duration_s;
    change(item, { state: "done", done_s: duration_s, duration_s, said: "", finished: event.language });
    page.speak(`${item.name} is transcribed.`);
  };

  // --- when it does not go on ---------------------------------------------------------------------------------------
  const wait = (item, state, seconds) =>
    new Promise((resolve) => {
      item.until = performance.now() + seconds * 1000;
      change(item, { state });
      const timer = setTimeout(resolve, seconds * 1000);
      item.wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });

  // Until the session answers again; false when it will not, or when the same place was lost too often.
  const back = async (item, stuck, message) => {
    if (stuck >= STUCK_MOST) {
      change(item, { state: "failed", said: message || "The connection was lost five times at the same place." });
      return false;
    }
    for (let tries = Math.max(0, stuck - 1); item.state !== "stopped"; tries += 1) {
      const here = await page.refresh();
      const away = page.away();
      if (item.state === "stopped") return false;
      if (["Ended", "Logged out"].includes(away?.state)) {
        change(item, { state: "cut", said: away.state === "Ended" ? "The session has ended." : "You are logged out." });
        return false;
      }
      await wait(item, "lost", AGAIN_S[Math.min(tries, AGAIN_S.length - 1)]);
      if (here && !away && item.state !== "stopped") return true;
    }
    return false;
  };

  const wake = () => items.forEach((item) => item.state === "lost" && item.wake?.());
  window.addEventListener("online", wake);

  // --- a reload ------------------------------------------------------------------------------------------------------
  page.restoreQueue = (order, chosenId) => {
    for (const id of order || []) {
      const item = page.keptItem(id);
      if (!item) continue;
      // What was under way has lost its connection with the page, and a file of this computer its content.
      if (!["done", "failed", "stopped", "cut"].includes(item.state)) item.state = item.path ? "waiting" : "cut";
      if (item.kind === "recording") item.unsaved = false; // its sound is gone
      items.push(item);
    }
    const item = items.find(({ id }) => id === chosenId) || items[0];
    if (item) page.choose(item);
    page.drawQueue();
    pump();
  };

  window.addEventListener("beforeunload", (event) => {
    const recordings = items.some((item) => item.kind === "recording" && item.unsaved && item.file);
    if (running.size || recordings || items.some(({ kept, unsaved }) => kept === false || unsaved)) event.preventDefault();
  });
})();
