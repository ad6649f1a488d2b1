// What the keyboard and a screen reader need of the chat beyond what Gradio gives; side.js has what every page needs.
"use strict";

(() => {
  const MARK = /\n*\u2063.*/g; // footnotes, see transcript.py
  const STOPS_WITHIN_MS = 5000;

  page.writing = () => Boolean(document.querySelector("#entry .stop-button"));

  // Press "Stop", again now and then, and wait until the answer has its end.
  page.stop = async () => {
    for (let waited = 0; (page.writing() || page.answering()) && waited < STOPS_WITHIN_MS; waited += 25) {
      if (waited % 500 === 0) document.querySelector("#entry .stop-button")?.click();
      await new Promise((resolve) => setTimeout(resolve, 25));
    }
  };

  // The copy button of a message would take our footnote and the references to images along.
  page.copied = (text) => page.split(text).words.replace(MARK, "");

  // To the entry box, where people write on.
  page.write = () => document.querySelector("#entry textarea")?.focus();

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
    } else if (event.key === " " && event.target.closest?.('.thought-group [role="button"]')) {
      event.preventDefault(); // Gradio's folded part knows Enter alone
      event.target.click();
    }
  });

  // --- for screen readers -----------------------------------------------------------------------------------------
  Object.assign(page.names, {
    "#entry .submit-button": "Send",
    "#entry .stop-button": "Stop",
    "#entry textarea": "Your message", // its label element holds the button as well, and would be "Your message Send"
    "#chat .edit-textarea": "Edit your question",
    '#chat [role="log"]': "Conversation",
  });
  page.parts.push("below", "entry");

  const label = () => {
    for (const log of document.querySelectorAll('#chat [role="log"]')) {
      page.set(log, "aria-live", "off"); // an answer is told once, whole: see `announce`
      page.set(log, "tabindex", "0"); // for scrolling by keys
    }
    for (const title of document.querySelectorAll('#chat .thought-group [role="button"]')) {
      page.set(title, "aria-expanded", String(title.classList.contains("expanded")));
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

  page.changed.push(label, announce);
})();
