// What every page needs beyond Gradio's parts: copying, the side by keyboard and for screen readers, and the start of
// it all. Served by frame.py after the page's own scripts, which fill the lists of session.js.
"use strict";

(() => {
  // --- copying ------------------------------------------------------------------------------------------------
  if (navigator.clipboard) {
    const write = navigator.clipboard.writeText.bind(navigator.clipboard);
    navigator.clipboard.writeText = (text) => write(page.copied(text));
  } else {
    // Browsers have no clipboard for a page over http.
    const writeText = async (text) => {
      const area = Object.assign(document.createElement("textarea"), { value: page.copied(text) });
      const before = document.activeElement;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
      before?.focus();
    };
    Object.defineProperty(navigator, "clipboard", { value: { writeText } });
  }

  // --- the side -----------------------------------------------------------------------------------------------
  document.addEventListener("keydown", (event) => {
    if (event.isComposing || event.defaultPrevented || event.key !== "Escape") return;
    if (!document.querySelector("#side.open")) return;
    document.querySelector("#side > .toggle-button").click();
    document.querySelector("#side > .toggle-button").focus();
  });

  // The visible words are in page.css.
  Object.assign(page.names, {
    "#side:not(.open) > .toggle-button": "Settings, session and code",
    "#side.open > .toggle-button": "Close settings, session and code",
  });

  const label = () => {
    for (const [selector, name] of Object.entries(page.names)) {
      for (const element of document.querySelectorAll(selector)) page.set(element, "aria-label", name);
    }
    const side = document.getElementById("side");
    const open = side?.classList.contains("open");
    const toggle = side?.querySelector(":scope > .toggle-button");
    if (toggle) page.set(toggle, "aria-expanded", String(open));
    const inside = side?.querySelector(":scope > .sidebar-content");
    if (inside) inside.inert = !open; // closed, it is off the screen: not for the Tab key either
  };

  // Gradio builds the page after loading, and changes it with each piece of an answer.
  let due = false;
  new MutationObserver(() => {
    if (due) return;
    due = true;
    queueMicrotask(() => {
      due = false;
      label();
      for (const tell of page.changed) tell();
    });
  }).observe(document.documentElement, {
    childList: true,
    subtree: true,
    attributeFilter: ["class", "aria-label"],
  });

  new MutationObserver((_, watching) => {
    if (!page.parts.every((id) => document.getElementById(id))) return;
    watching.disconnect();
    for (const begin of page.begun) begin();
    page.refresh();
  }).observe(document.documentElement, { childList: true, subtree: true });
})();
