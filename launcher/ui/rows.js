// The queue of the transcribe page as one sees it: a row for each file, with its state in words and a bar.
"use strict";

(() => {
  const rows = new Map(); // item → its elements
  const due = new Set();

  const make = (tag, className, values = {}) => Object.assign(document.createElement(tag), { className, ...values });
  page.make = make;

  // 62.4 → "1:02"; with the hour where the whole has one.
  page.clock = (seconds, whole = seconds) => {
    const all = Math.max(0, Math.floor(seconds));
    const [hours, minutes, rest] = [Math.floor(all / 3600), Math.floor(all / 60) % 60, String(all % 60).padStart(2, "0")];
    return whole >= 3600 ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes + 60 * hours}:${rest}`;
  };

  const span = (seconds) => {
    if (seconds < 60) return `${Math.max(1, Math.round(seconds))} s`;
    if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
    return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
  };
  const number = (value) => value.toLocaleString("en");
  const far = ({ done_s, duration_s }) =>
    duration_s ? `${page.clock(done_s, duration_s)} of ${page.clock(duration_s)}` : done_s ? page.clock(done_s) : "";
  const soon = ({ until }) => `in ${Math.max(1, Math.ceil((until - performance.now()) / 1000))} s`;

  page.marked = (item) => item.lines.filter(({ marks }) => marks?.length).length;
  page.wordsOf = (item) => item.lines.reduce((sum, { text }) => sum + (page.oneLine(text).match(/\S+/g)?.length || 0), 0);

  const listening = (item) => {
    const spent_s = item.pace ? (performance.now() - item.pace.at) / 1000 : 0;
    const facts = [far(item)];
    const speed = (item.done_s - (item.pace?.done_s ?? 0)) / spent_s;
    if (spent_s > 2 && speed > 0) {
      facts.push(`${speed >= 10 ? Math.round(speed) : speed.toFixed(1)} × real time`);
      if (item.duration_s > item.done_s) facts.push(`about ${span((item.duration_s - item.done_s) / speed)} left`);
    }
    return facts.join(" · ");
  };

  const done = (item) => {
    const words = page.wordsOf(item);
    const facts = [page.clock(Math.ceil(item.duration_s || 0)), page.languageName(item.language)];
    facts.push(words ? `${number(words)} word${words === 1 ? "" : "s"}` : "Nothing was said");
    if (item.took_s >= 1) facts.push(`took ${span(item.took_s)}`);
    return facts.filter(Boolean).join(" · ");
  };

  const STATES = {
    waiting: () => "Waits for its turn",
    sending: ({ sent }) => `Uploading ${Math.floor(100 * sent)} %`,
    begun: (item) => (item.done_s ? `Goes on at ${page.clock(item.done_s)}` : "Listening …"),
    listening,
    busy: (item) => `The session is busy: tries again ${soon(item)}`,
    lost: (item) => `${item.done_s ? `Connection lost at ${page.clock(item.done_s)}` : "Connection lost"}: tries again ${soon(item)}`,
    done,
    failed: (item) => (item.done_s ? `Failed at ${far(item)}` : ""),
    stopped: (item) => `Stopped ${item.done_s ? `at ${far(item)}` : ""}`,
    cut: (item) =>
      `${item.said || "The page was loaded anew."} ${item.done_s ? `Transcribed until ${far(item)}.` : ""} ${
        item.path || item.file ? "" : item.kind === "recording" ? "Its sound was not saved." : "Choose the file again to go on."
      }`,
  };
  const RUNS = ["waiting", "sending", "begun", "listening", "busy", "lost"];

  // Name, what it is called for who listens, when it is there, what it does.
  const BUTTONS = [
    ["Try now", ({ state }) => ["busy", "lost"].includes(state), (item) => item.wake?.()],
    ["Stop", (item) => RUNS.includes(item.state), (item) => page.stopItem(item)],
    ["Go on", (item) => (item.path || item.file) && ["stopped", "cut"].includes(item.state), (item) => page.goOn(item)],
    ["Try again", (item) => (item.path || item.file) && item.state === "failed", (item) => page.goOn(item)],
    ["Again", (item) => (item.path || item.file) && item.state === "done", (item) => page.anew(item)],
    ["Save sound", (item) => item.kind === "recording" && item.file, (item) => page.saveSound(item)],
    ["Remove", (item) => !RUNS.includes(item.state), (item) => page.remove(item)],
  ];

  const build = (item) => {
    const row = make("li", "row");
    const pick = make("button", "pick", { type: "button", textContent: item.name, title: item.path || item.name });
    pick.onclick = () => page.choose(item);
    const facts = make("span", "facts");
    const acts = make("span", "acts");
    const buttons = BUTTONS.map(([name, , act]) => {
      const button = make("button", "quiet", { type: "button", textContent: name, ariaLabel: `${name}: ${item.name}` });
      button.onclick = () => act(item);
      return button;
    });
    buttons[4].title = "Transcribe it again, with the language and settings as they are now";
    acts.append(...buttons);
    const bar = make("progress", "", { max: 1, ariaLabel: `Progress of ${item.name}` });
    const said = make("p", "trouble");
    row.append(pick, facts, acts, bar, said);
    return { row, facts, buttons, bar, said, pick };
  };

  const put = (element, text) => element.textContent !== text && (element.textContent = text);

  const update = (item) => {
    const parts = rows.get(item);
    if (!parts) return;
    parts.row.dataset.state = item.state;
    page.set(parts.pick, "aria-current", String(item === page.chosen()));
    put(parts.facts, STATES[item.state](item).replace(/\s+/g, " ").trim());
    put(parts.said, item.state === "failed" ? item.said : "");
    BUTTONS.forEach(([, there], place) => (parts.buttons[place].hidden = !there(item)));
    const runs = RUNS.includes(item.state);
    parts.bar.hidden = !runs;
    const share = item.state === "sending" ? item.sent : item.duration_s ? item.done_s / item.duration_s : item.done_s ? null : 0;
    if (item.state === "begun" && !item.done_s) parts.bar.removeAttribute("value");
    else if (share === null) parts.bar.removeAttribute("value");
    else if (parts.bar.value !== share || !parts.bar.hasAttribute("value")) parts.bar.value = Math.min(1, share);
    if (item === page.chosen()) page.drawFacts(item);
  };

  // Many pieces may come in one frame.
  page.draw = (item) => {
    if (!due.size) {
      setTimeout(() => {
        const now = [...due];
        due.clear();
        now.forEach(update);
      }, 50);
    }
    due.add(item);
  };

  page.drawQueue = () => {
    const list = document.getElementById("queue");
    const items = page.items();
    for (const item of rows.keys()) if (!items.includes(item)) rows.delete(item);
    for (const item of items) if (!rows.has(item)) rows.set(item, build(item));
    const wanted = items.map((item) => rows.get(item).row);
    if (wanted.length !== list.children.length || wanted.some((row, place) => list.children[place] !== row)) {
      list.replaceChildren(...wanted);
    }
    items.forEach(update);
    list.hidden = !items.length;
    document.getElementById("work").dataset.items = items.length ? "some" : "none";
  };

  // Speed, estimate and countdowns go on between two pieces.
  setInterval(() => page.items().filter(({ state }) => ["listening", "busy", "lost"].includes(state)).forEach(update), 1000);
})();
