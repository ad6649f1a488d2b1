// What the keyboard and a screen reader need beyond what Gradio gives; and the start of the other scripts.
"use strict";

(() => {
  const MARK = /\n*\u2063.*/g; // footnotes, see transcript.py
  const STOPS_WITHIN_MS = 5000;

  page.writing = () => Boolean(document.querySelector("#entry .stop-button"));

  // Press "Stop" and wait until the answer has its end.
  page.stop = async () => {
    document.querySelector("#entry .stop-button")?.click();
    for (let waited = 0; page.writing() && waited < STOPS_WITHIN_MS; waited += 25) {
      await new Promise((resolve) => setTimeout(resolve, 25));
    }
  };

  // --- copying ------------------------------------------------------------------------------------------------
  // The copy button of a message would take our footnote and the references to images along.
  const plain = (text) => page.split(text).words.replace(MARK, "");
  if (navigator.clipboard) {
    const write = navigator.clipboard.writeText.bind(navigator.clipboard);
    navigator.clipboard.writeText = (text) => write(plain(text));
  } else {
    // Browsers have no clipboard for a page over http.
    const writeText = async (text) => {
      const area = Object.assign(document.createElement("textarea"), { value: plain(text) });
      const before = document.activeElement;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
      before?.focus();
    };
    Object.defineProperty(navigator, "clipboard", { value: { writeText } });
  }

  // --- keys ---------------------------------------------------------------------------------------------------
  document.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    const row = event.target.closest?.(".message-row, .message-wrap");
    const inEdit = event.target.matches?.(".edit-textarea");
    if (inEdit && (event.key === "Escape" || (event.key === "Enter" && !event.shiftKey))) {
      event.preventDefault();
      const buttons = row?.closest(".message-wrap")?.querySelectorAll(".message-buttons-right button") || [];
      const name = event.key === "Escape" ? "Cancel" : "Submit";
      [...buttons].find((button) => button.title === name || button.ariaLabel === name)?.click();
      page.write();
    } else if (event.key === "Escape" && page.writing()) {
      event.preventDefault();
      page.stop();
    } else if (event.key === "Escape" && document.querySelector("#side.open")) {
      document.querySelector("#side > .toggle-button").click();
      document.querySelector("#side > .toggle-button").focus();
    } else if (event.key === " " && event.target.closest?.('.thought-group [role="button"]')) {
      event.preventDefault(); // Gradio's folded part knows Enter alone
      event.target.click();
    }
  });

  // --- names for screen readers where Gradio has none or an odd one; the visible words are in page.css ------------
  const NAMES = {
    "#side:not(.open) > .toggle-button": "Settings, session and code",
    "#side.open > .toggle-button": "Close settings, session and code",
    "#entry .submit-button": "Send",
    "#entry .stop-button": "Stop",
    "#entry textarea": "Your message", // its label element holds the button as well, and would be "Your message Send"
    "#chat .edit-textarea": "Edit your question",
    '#chat [role="log"]': "Conversation",
  };

  const set = (element, name, value) => element.getAttribute(name) !== value && element.setAttribute(name, value);

  const label = () => {
    for (const [selector, name] of Object.entries(NAMES)) {
      for (const element of document.querySelectorAll(selector)) set(element, "aria-label", name);
    }
    const side = document.getElementById("side");
    const open = side?.classList.contains("open");
    const toggle = side?.querySelector(":scope > .toggle-button");
    if (toggle) set(toggle, "aria-expanded", String(open));
    const inside = side?.querySelector(":scope > .sidebar-content");
    if (inside) inside.inert = !open; // closed, it is off the screen: not for the Tab key either
    for (const log of document.querySelectorAll('#chat [role="log"]')) {
      set(log, "aria-live", "off"); // an answer is told once, whole: see `announce`
      set(log, "tabindex", "0"); // for scrolling by keys
    }
    for (const title of document.querySelectorAll('#chat .thought-group [role="button"]')) {
      set(title, "aria-expanded", String(title.classList.contains("expanded")));
    }
    mark();
    page.addAttachButton();
    page.showPictures();
  };

  // Gradio puts a message's text into an aria-label, where markup and footnote marks would be read out.
  const mark = () => {
    for (const part of document.querySelectorAll("#chat [data-testid][aria-label*='message: ']")) {
      const text = part.getAttribute("aria-label").replace(/^.*?message: /s, "");
      const kind = text.startsWith("\u2063\u2063") ? "trouble" : text.startsWith("\u2063") ? "counts" : null;
      if (kind) part.dataset.footnote = kind;
      else delete part.dataset.footnote;
      part.removeAttribute("aria-label");
    }
  };

  let wasWriting = false;
  const announce = () => {
    const writing = page.writing();
    if (writing === wasWriting) return;
    wasWriting = writing;
    const last = [...document.querySelectorAll("#chat .bot-row")].at(-1);
    const parts = [...(last?.querySelectorAll(".message-content") || [])]
      .filter((part) => !part.closest('.thought-group, [data-footnote="counts"]'))
      .map((part) => part.innerText);
    page.speak(writing ? "The answer is being written." : "Answer: " + parts.join(" ").replaceAll("\u2063", ""));
    // The pressed button has gone; whoever uses the keyboard stays where they were.
    if (document.activeElement === document.body && matchMedia("(pointer: fine)").matches) {
      page.write();
    }
  };

  // Gradio builds the page after loading, and changes it with each piece of an answer.
  let due = false;
  new MutationObserver(() => {
    if (due) return;
    due = true;
    queueMicrotask(() => {
      due = false;
      label();
      announce();
    });
  }).observe(document.documentElement, {
    childList: true,
    subtree: true,
    attributeFilter: ["class", "aria-label"],
  });

  new MutationObserver((_, watching) => {
    if (!["top", "side", "below", "entry"].every((id) => document.getElementById(id))) return;
    watching.disconnect();
    page.refresh();
  }).observe(document.documentElement, { childList: true, subtree: true });
})();
