// The transcript on the page: lines that grow, are heard, corrected and checked. A line is only ever added or changed by
// itself, so that hours of text stay quick. player.js has the sound, find.js the search.
"use strict";

(() => {
  const GROW_MS = 100;
  const MARKS = { repeated: "repeats itself", unsure: "unsure" };
  const WHY = {
    repeated: "The model seems to go round in circles here. Listen again; press when it is right.",
    unsure: "The model is not sure of this line. Listen again; press when it is right.",
  };
  const PENCIL =
    '<svg viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="1.7" stroke-linecap="round" stroke-linejoin="round"' +
    ' aria-hidden="true"><path d="M4 20l1-4L16.5 4.5a2.1 2.1 0 0 1 3 3L8 19z"/></svg>';

  let item = null; // whose lines these are
  let at = 0; // the line that keys act on
  let editing = null; // {number, said, before} while a line is edited

  const list = () => document.getElementById("lines");
  const row = (number) => list().children[number];
  const part = (number, name) => row(number)?.querySelector(`.${name}`);
  page.lineRow = row;

  // --- one line -----------------------------------------------------------------------------------------------------
  const build = (line, number) => {
    const time = page.clock(line.start, item.duration_s || line.start); // how long a recording is turns out at its end
    const made = page.make("li", "line");
    const at = page.make("button", "at", { type: "button", textContent: time, tabIndex: -1, ariaLabel: `Hear from ${time}` });
    made.append(at, page.make("span", "said", { textContent: page.oneLine(line.text), dir: "auto" }));
    note(made, line);
    if (number === 0) at.tabIndex = 0;
    return made;
  };

  // One for all lines: it goes where the pointer or the focus is.
  const pencil = page.make("button", "change", { type: "button", title: "Edit (E)", innerHTML: PENCIL });
  const lend = (made) => {
    if (!made || pencil.parentNode === made) return;
    pencil.ariaLabel = `Edit the line at ${made.firstChild.textContent}`;
    made.append(pencil);
  };

  // What is said beside a line: why to listen again, or that it was changed.
  const note = (made, line) => {
    const notes = (line.marks || []).map((mark) => {
      const button = page.make("button", "mark", { type: "button", tabIndex: -1, textContent: MARKS[mark] || mark, title: WHY[mark] || "" });
      button.dataset.act = "checked";
      return button;
    });
    if (line.first !== undefined) {
      const button = page.make("button", "edited", { type: "button", tabIndex: -1, textContent: "edited", title: `Press to take back what was heard: ${page.oneLine(line.first.text)}` });
      button.dataset.act = "back";
      notes.push(button);
    }
    made.querySelector(".notes")?.remove();
    if (notes.length) {
      const part = page.make("span", "notes");
      part.append(...notes);
      made.children[1].after(part);
    }
    made.classList.toggle("marked", Boolean(line.marks?.length));
    made.classList.toggle("empty", !page.oneLine(line.text));
  };

  const reachable = (made, yes) => {
    made?.querySelectorAll("button:not(.change)").forEach((button) => (button.tabIndex = yes ? 0 : -1));
    if (yes) lend(made);
  };

  const widen = () => {
    const longest_s = Math.max(item.duration_s || 0, item.lines.at(-1)?.start || 0);
    list().classList.toggle("hours", longest_s >= 3600);
  };

  // --- all of them ----------------------------------------------------------------------------------------------------
  page.show = (shown) => {
    if (editing) finish(true);
    const other = item !== shown;
    item = shown;
    document.getElementById("transcript").hidden = !item;
    if (!item) return page.hearNothing();
    if (other) at = 0;
    document.getElementById("name").textContent = item.name;
    list().lang = item.language || "";
    list().replaceChildren(...item.lines.map(build));
    widen();
    at = Math.min(at, Math.max(0, item.lines.length - 1));
    if (at) go(at, { focus: false });
    if (other) {
      list().scrollTop = 0;
      page.load(item);
    }
    page.findAgain();
    page.drawFacts(item);
  };

  // Pieces may come faster than anybody reads: those of a tenth of a second are added at once.
  let growing = null;
  page.grew = (grown) => {
    if (grown === item) growing ??= setTimeout(page.growNow, GROW_MS);
  };

  page.growNow = () => {
    clearTimeout(growing);
    growing = null;
    if (!item) return;
    const lines = list();
    const from = lines.children.length;
    const follow = lines.scrollHeight - lines.scrollTop - lines.clientHeight < 60 && !editing && !page.playing();
    const piece = document.createDocumentFragment();
    for (let number = from; number < item.lines.length; number += 1) piece.append(build(item.lines[number], number));
    lines.append(piece);
    widen();
    if (follow) lines.scrollTop = lines.scrollHeight;
    page.findAgain();
    page.drawFacts(item);
  };

  page.drawFacts = (shown) => {
    if (shown !== item) return;
    const marked = page.marked(item);
    const put = (id, text) => {
      const element = document.getElementById(id);
      if (element.textContent !== text) element.textContent = text;
    };
    const sure = item.probability < 0.995 && !item.settings?.language ? ` (${Math.round(100 * item.probability)} %)` : "";
    const language = item.language ? page.languageName(item.language) + sure : "";
    put("about", [item.duration_s ? page.clock(Math.ceil(item.duration_s)) : "", language].filter(Boolean).join(" · "));
    put("unkept", item.kept === false ? "Too long to be kept when this page is loaded anew: download it." : "");
    const again = document.getElementById("again");
    again.hidden = !marked;
    put("again", `${marked} to listen again`);
    const empty = document.getElementById("nothing");
    empty.hidden = item.lines.length > 0;
    put("nothing", item.state === "done" ? "Nothing was said in this file." : "The text appears here as it is heard.");
    for (const button of document.querySelectorAll("#save button")) button.disabled = !item.lines.length;
  };

  // --- moving, hearing -------------------------------------------------------------------------------------------------
  const go = (number, { focus = true, scroll = true } = {}) => {
    if (!item?.lines.length) return;
    const next = Math.min(Math.max(0, number), item.lines.length - 1);
    reachable(row(at), false);
    at = next;
    reachable(row(at), true);
    if (focus) part(at, "at").focus({ preventScroll: true });
    if (scroll) row(at).scrollIntoView({ block: "nearest" });
  };
  page.goLine = go;
  page.atLine = () => at;

  const hear = (number, options) => {
    go(number, options);
    page.hear(item.lines[number].start);
  };
  page.hearLine = hear;

  // The next line with a mark after the one that keys act on, from the beginning again after the last.
  page.nextMarked = () => {
    const { lines } = item;
    for (let step = 1; step <= lines.length; step += 1) {
      const number = (at + step) % lines.length;
      if (lines[number].marks?.length) return hear(number);
    }
  };

  // The line that is heard at this moment; lines begin in order.
  let lit = null;
  page.light = (time_s, follow) => {
    if (!item) return;
    let [low, high] = [0, item.lines.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (item.lines[middle].start <= time_s + 0.02) low = middle + 1;
      else high = middle;
    }
    const now = low ? row(low - 1) : null;
    if (now === lit) return;
    lit?.classList.remove("heard");
    lit?.removeAttribute("aria-current");
    now?.classList.add("heard");
    now?.setAttribute("aria-current", "true");
    lit = now;
    if (follow && now && !editing) now.scrollIntoView({ block: "nearest" });
  };

  // --- editing ------------------------------------------------------------------------------------------------------
  const edit = (number, point) => {
    if (editing) finish(true);
    go(number, { focus: false, scroll: !point });
    const said = part(number, "said");
    editing = { number, said, before: said.textContent };
    row(number).classList.add("editing");
    try {
      said.contentEditable = "plaintext-only";
    } catch {
      said.contentEditable = "true"; // Firefox before 136
    }
    said.role = "textbox";
    said.ariaLabel = `Text at ${part(number, "at").textContent}`;
    said.focus();
    const selection = getSelection();
    const range = point && document.caretPositionFromPoint?.(point.x, point.y);
    if (range && said.contains(range.offsetNode)) selection.collapse(range.offsetNode, range.offset);
    else {
      selection.selectAllChildren(said);
      selection.collapseToEnd();
    }
  };
  page.isEditing = () => editing !== null;

  const finish = (keep) => {
    const { number, said, before } = editing;
    editing = null;
    row(number).classList.remove("editing");
    said.removeAttribute("contenteditable");
    said.removeAttribute("role");
    said.removeAttribute("aria-label");
    const text = page.oneLine(said.textContent);
    said.textContent = keep ? text : before;
    if (keep && text !== before) changeLine(number, text);
  };

  // A changed line was heard by a human: its marks are answered, and its words are no longer the model's.
  const changeLine = (number, text) => {
    const line = item.lines[number];
    const { first, ...now } = line;
    const heard = first || { text: line.text, marks: line.marks, words: line.words };
    const gap = /^\s/.test(heard.text) ? " " : "";
    const same = text === page.oneLine(heard.text);
    item.lines[number] = same ? { ...now, ...heard } : { ...now, text: gap + text, marks: [], words: undefined, first: heard };
    renew(number);
  };
  page.changeLine = changeLine;

  const renew = (number) => {
    part(number, "said").textContent = page.oneLine(item.lines[number].text);
    note(row(number), item.lines[number]);
    reachable(row(number), number === at);
    item.unsaved = true;
    page.keep(item);
    page.drawFacts(item);
    page.draw(item);
    page.findAgain();
  };

  const ACTS = {
    checked: (number) => {
      item.lines[number] = { ...item.lines[number], marks: [] };
      renew(number);
    },
    back: (number) => changeLine(number, page.oneLine(item.lines[number].first.text)),
  };

  // --- mouse and keys ------------------------------------------------------------------------------------------------
  const numberOf = (element) => [...list().children].indexOf(element.closest(".line"));

  const press = (event) => {
    if (!event.target.closest(".line") || event.target.isContentEditable) return;
    const number = numberOf(event.target);
    const act = event.target.closest("[data-act]")?.dataset.act;
    if (act) {
      ACTS[act](number);
      go(number, { scroll: false });
    } else if (event.target.closest(".change")) edit(number);
    // Whoever marks words to copy them wants to hear nothing.
    // It is seen already; were it moved, the second click of two would meet another line.
    else if (getSelection().isCollapsed) hear(number, { focus: !editing, scroll: false });
  };

  const twice = (event) => {
    if (event.target.closest(".line") && !event.target.closest("button") && !event.target.isContentEditable) edit(numberOf(event.target), event);
  };

  const MOVES = { ArrowUp: () => at - 1, ArrowDown: () => at + 1, Home: () => 0, End: () => item.lines.length - 1 };

  const whileEditing = (event) => {
    const { number } = editing;
    const control = event.ctrlKey || event.metaKey;
    if (event.key === "Enter") {
      finish(true);
      if (control && number + 1 < item.lines.length) {
        hear(number + 1, { focus: false });
        edit(number + 1);
      } else go(number);
    } else if (event.key === "Escape") {
      finish(false);
      go(number);
    } else if (control && event.key === " ") page.toggle();
    else return;
    event.preventDefault();
  };

  const keys = (event) => {
    if (event.isComposing) return;
    if (editing) return whileEditing(event);
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (MOVES[event.key]) go(MOVES[event.key]());
    else if (event.key === "e" || event.key === "F2") edit(at);
    else return;
    event.preventDefault();
  };

  page.begun.push(() => {
    const lines = list();
    lines.addEventListener("click", press);
    lines.addEventListener("dblclick", twice);
    lines.addEventListener("pointerover", (event) => !pencil.matches(":focus") && lend(event.target.closest(".line")));
    lines.addEventListener("pointerleave", () => !pencil.matches(":focus") && lend(row(at)));
    lines.addEventListener("keydown", keys);
    lines.addEventListener("focusout", (event) => editing && event.target === editing.said && finish(true));
    document.getElementById("again").onclick = page.nextMarked;
  });
})();
