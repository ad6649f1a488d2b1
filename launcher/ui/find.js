// Finding words in the transcript, and replacing them in all lines at once: a name that was misheard all along.
"use strict";

(() => {
  const WAIT_MS = 120;
  let found = []; // {number, range}, in order
  let place = -1;
  let timer;

  const field = () => document.getElementById("find");
  const ranges = (name, all) => {
    if (!window.Highlight) return; // Firefox before 140: found lines are gone to all the same
    if (all.length) CSS.highlights.set(name, new Highlight(...all));
    else CSS.highlights.delete(name);
  };

  const look = () => {
    const word = field().value.trim().toLowerCase();
    found = [];
    if (word) {
      [...document.getElementById("lines").children].forEach((row, number) => {
        const node = row.querySelector(".said").firstChild;
        const text = node?.data.toLowerCase() || "";
        // Some letters are longer in lower case; their places would be others.
        if (!text || text.length !== node.data.length) return;
        for (let at = text.indexOf(word); at >= 0; at = text.indexOf(word, at + word.length)) {
          const range = document.createRange();
          range.setStart(node, at);
          range.setEnd(node, at + word.length);
          found.push({ number, range });
        }
      });
    }
    place = Math.min(place, found.length - 1);
    tell();
  };

  const tell = () => {
    const word = field().value.trim();
    ranges("found", found.map(({ range }) => range));
    ranges("here", place >= 0 ? [found[place].range] : []);
    const text = !word ? "" : !found.length ? "not found" : place < 0 ? `${found.length} found` : `${place + 1} of ${found.length}`;
    document.getElementById("found").textContent = text;
    document.getElementById("replacing").hidden = !word;
  };

  const step = (by) => {
    if (!found.length) return;
    place = place < 0 ? (by > 0 ? 0 : found.length - 1) : (place + by + found.length) % found.length;
    page.goLine(found[place].number, { focus: false });
    page.speak(page.oneLine(page.chosen().lines[found[place].number].text));
    tell();
  };

  page.findAgain = () => {
    if (field().value) look();
  };

  const replaceAll = () => {
    const [word, other] = [field().value.trim(), document.getElementById("other").value.trim()];
    const all = new Map();
    for (const { number, range } of found) all.set(number, [...(all.get(number) || []), range.startOffset]);
    field().value = ""; // no looking again after each line
    for (const [number, places] of all) {
      let text = page.oneLine(page.chosen().lines[number].text);
      for (const at of places.reverse()) text = text.slice(0, at) + other + text.slice(at + word.length);
      page.changeLine(number, text);
    }
    field().value = other;
    place = -1;
    look();
    page.tell(`Replaced in ${all.size} line${all.size === 1 ? "" : "s"}.`);
  };

  page.begun.push(() => {
    field().addEventListener("input", () => {
      clearTimeout(timer);
      place = -1;
      timer = setTimeout(look, WAIT_MS);
    });
    field().addEventListener("keydown", (event) => {
      if (event.key === "Enter") {
        event.preventDefault();
        clearTimeout(timer);
        look();
        step(event.shiftKey ? -1 : 1);
      } else if (event.key === "Escape" && field().value) {
        event.preventDefault();
        field().value = "";
        look();
      }
    });
    document.getElementById("replacing").addEventListener("submit", (event) => {
      event.preventDefault();
      replaceAll();
    });
  });
})();
