// The conversation in the browser: kept in this tab, carried along with each question, saved as a file.
// Gradio's events in chat.py call `page.ask`, `again`, `over`, `running`, `begin`, `keep` and `kept`.
"use strict";

(() => {
  const KEEP_AFTER_MS = 300; // a streamed answer changes twenty times a second
  const EMPTY = [[], "", null, null, null, ""]; // chat, the four settings, the text not sent yet
  const MARK = "\u2063"; // a footnote of ours begins with it, one that tells of trouble with two (transcript.py)
  const CUT = MARK + MARK + "The answer was cut off: this page was loaded anew while it was being written.";

  page.stays = "The conversation stays in this tab until you close it; you can still save it.";

  // --- kept in sessionStorage, which one tab has for itself -----------------------------------------------------
  // All apps of a portal share one origin, so the name holds the path, and nothing is put where other tabs can read it.
  page.place = () => "launcher-chat:" + new URL(document.baseURI).pathname;
  let latest = null;
  let waiting;

  const draft = () => document.querySelector("#entry textarea")?.value || "";
  const write = () => {
    clearTimeout(waiting);
    if (!latest) return;
    try {
      sessionStorage.setItem(page.place(), JSON.stringify([...latest.slice(0, 5), draft()]));
    } catch {
      // full or forbidden: the chat works all the same, a reload starts anew
    }
  };

  page.keep = (all) => {
    if (!latest) return; // the empty chat that Gradio begins with, before `kept` has filled it
    latest = all;
    page.forgetAllBut(references(all[0]));
    clearTimeout(waiting);
    waiting = setTimeout(write, KEEP_AFTER_MS);
  };

  page.kept = () => {
    try {
      latest = JSON.parse(sessionStorage.getItem(page.place())) || EMPTY;
    } catch {
      latest = EMPTY;
    }
    latest = [whole(latest[0]), ...latest.slice(1)];
    putBack(latest[5]);
    return latest.slice(0, 5);
  };

  // By hand: as an output of Gradio's it would take away what somebody types while the page is still being built.
  const putBack = (text) => {
    const field = document.querySelector("#entry textarea");
    if (!text || !field || field.value) return;
    field.value = text;
    field.dispatchEvent(new Event("input", { bubbles: true }));
  };

  // A history that ends without a footnote ended with its page, not with an answer.
  const whole = (history) => {
    const last = history.at(-1);
    if (!last || texts(last).some((text) => text.startsWith(MARK))) return history;
    const note = { type: "text", text: CUT };
    if (last.role === "user" || last.metadata?.title) return [...history, { role: "assistant", content: [note] }];
    return [...history.slice(0, -1), { ...last, content: [...last.content, note] }];
  };

  window.addEventListener("pagehide", write);
  document.addEventListener("submit", (event) => {
    if (!event.target.closest(".panel")) return; // "Log out" leaves nothing behind
    latest = null;
    page.forgetAllBut([]);
    sessionStorage.removeItem(page.place());
  });

  // --- what goes along with a question --------------------------------------------------------------------------
  let turn = "";
  let answering = false; // whether pieces of an answer may still come
  let unwanted = false; // whether they belong to a chat that is gone
  const references = (history) =>
    [...JSON.stringify(history.filter((message) => message.role === "user")).matchAll(/\(#picture-([0-9a-z]{8})\)/g)].map(
      (found) => found[1],
    );
  const carry = (history, more = []) => {
    turn = page.identity() + page.identity();
    [answering, unwanted] = [true, false];
    const edited = page.edited();
    const pictures = page.picturesOf([...references(history), ...edited.ids, ...more]);
    return { turn, pictures, edited: edited.before };
  };

  let refused = false; // whether a question was held back here, with its own words
  const reach = async (settings) => {
    refused = true;
    if (page.writing()) throw new Error("an answer is being written");
    const wrong = beyond(settings);
    if (wrong) {
      page.tell(`Not sent. ${wrong}`);
      throw new Error("not sent: " + wrong);
    }
    await page.reach();
    refused = false;
  };

  // What is wrong with the numbers in Settings; Gradio would refuse them without a word.
  const beyond = ([, ...numbers]) => {
    const ranges = JSON.parse(document.getElementById("pictures").dataset.ranges);
    return ranges
      .map(([name, least, most], place) => {
        const value = numbers[place] ?? null; // not there before its part of the page is built
        if (value === null || (value >= least && (most === null || value <= most))) return "";
        return `${name} must be ${most === null ? `at least ${least}` : `between ${least} and ${most}`}.`;
      })
      .filter(Boolean)
      .join(" ");
  };

  page.ask = async ([text, history, , ...settings]) => {
    const attached = page.attached();
    if (!text?.trim() && !attached.length) return ["", history, null, ...settings];
    await reach(settings);
    const before = attached.map(({ id, name }) => `[${name}](#picture-${id})`).join(" ");
    const carried = carry(history, attached.map(({ id }) => id));
    page.detach();
    return [before ? `${before}\n\n${text || ""}` : text, history, carried, ...settings];
  };

  page.again = async ([history, , ...settings]) => {
    await reach(settings);
    return [history, carry(history), ...settings];
  };

  // Gradio calls it when an event did not come to its end.
  page.failed = async (history) => {
    answering = false;
    if (!refused && (await page.refresh())) {
      page.tell("The question could not be sent. If it is long or has many images, start a new chat.");
    }
    return [history, { __type__: "update", ...(refused ? {} : { submit_btn: true, stop_btn: false }) }];
  };

  page.running = () => [{ turn }];

  page.answering = () => answering;

  // After the last piece, however it came to that: one that came after "New chat" has put the old chat back.
  page.over = () => {
    const chat = unwanted ? [] : { __type__: "update" };
    answering = unwanted = false;
    return [chat];
  };

  // Before Gradio sees the click: there is no way back from a new chat.
  const ASK = "Start a new chat? This conversation is kept nowhere else.";
  const begun = () => Boolean(latest?.[0].length || draft() || page.attached().length);
  document.addEventListener(
    "click",
    (event) => {
      if (event.target.closest("#new") && begun() && !confirm(ASK)) event.stopPropagation();
    },
    true,
  );

  page.begin = async () => {
    await page.stop();
    unwanted = answering;
    page.detach();
    page.speak("New chat.");
    return [[], ""];
  };

  // --- saved as a file, by the browser alone: it works after the session has ended --------------------------------
  const texts = (message) => message.content.map((part) => part.text || "");
  const said = (message) => texts(message).filter((text) => text && !text.startsWith(MARK)).join("\n\n");
  const footnote = (message) =>
    texts(message).filter((text) => text.startsWith(MARK)).join(" ").replaceAll(MARK, "").replace(/\\(.)/g, "$1");

  const content = (text) => {
    const { images, words } = page.split(text);
    if (!images.length) return text;
    const parts = images.filter(({ url }) => url).map(({ url }) => ({ type: "image_url", image_url: { url } }));
    return words ? [...parts, { type: "text", text: words }] : parts;
  };

  const facts = () => {
    const { model = null, commit = null, id = null, hardware = null } = page.facts() || {};
    return { model, commit, session: id, hardware, saved_at: new Date().toISOString() };
  };

  const asJson = ([history, system, temperature, top_p, max_tokens]) => {
    const messages = system?.trim() ? [{ role: "system", content: system.trim() }] : [];
    const answers = []; // what OpenAI's messages have no place for
    let reasoning = null;
    for (const message of history) {
      if (message.metadata?.title) {
        reasoning = said(message);
        continue;
      }
      const text = said(message);
      if (text) messages.push({ role: message.role, content: message.role === "user" ? content(text) : text });
      if (message.role === "assistant") {
        const counts = JSON.parse(message.metadata?.log || "{}");
        const trouble = texts(message).some((part) => part.startsWith(MARK + MARK)) ? footnote(message) : null;
        answers.push({ message: text ? messages.length - 1 : null, reasoning, ...counts, trouble });
        reasoning = null;
      }
    }
    const settings = { temperature, top_p, max_tokens };
    return JSON.stringify({ ...facts(), settings, messages, answers }, null, 2) + "\n";
  };

  const asMarkdown = ([history, system, temperature, top_p, max_tokens]) => {
    const about = facts();
    const lines = [`# Conversation with ${about.model}`, ""];
    const tell = (name, value) => value !== null && value !== "" && lines.push(`- ${name}: ${value}`);
    tell("Commit", about.commit);
    tell("Hardware", about.hardware);
    tell("Session", about.session);
    tell("Saved", about.saved_at);
    tell("Temperature", temperature);
    tell("Top-p", top_p);
    tell("Longest answer, in tokens", max_tokens);
    if (system?.trim()) lines.push("", "## System prompt", "", system.trim());
    for (const message of history) {
      const text = said(message);
      if (message.metadata?.title) {
        lines.push("", "<details><summary>Reasoning</summary>", "", text, "", "</details>");
      } else if (message.role === "user") {
        const { images, words } = page.split(text);
        lines.push("", "## You", "", ...images.map(({ name, url }) => (url ? `![${name}](${url})\n` : `*${name}*\n`)), words);
      } else {
        lines.push("", `## ${about.model}`, "", text, "", `*${footnote(message)}*`);
      }
    }
    return lines.join("\n") + "\n";
  };

  const KINDS = {
    json: { suffix: "json", type: "application/json", text: asJson },
    markdown: { suffix: "md", type: "text/markdown", text: asMarkdown },
  };

  document.addEventListener("click", (event) => {
    const kind = KINDS[event.target.closest("[data-save]")?.dataset.save];
    if (!kind) return;
    if (!latest?.[0].length) return page.tell("There is nothing to save yet.");
    const link = document.createElement("a");
    const name = `${page.facts()?.model || "chat"}-${new Date().toISOString().slice(0, 16)}`;
    link.download = `${name.replace(/[^\w.-]+/g, "-")}.${kind.suffix}`;
    link.href = URL.createObjectURL(new Blob([kind.text(latest)], { type: kind.type }));
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    page.speak(`Saved as ${link.download}.`);
  });
})();
