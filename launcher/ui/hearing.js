// One request of the transcribe page: the sound goes to the session, and what was heard comes back piece by piece.
// XMLHttpRequest, since fetch does not tell how much of an upload has gone.
"use strict";

(() => {
  const SILENT_MS = 90000; // the gateway sends a heartbeat every 15 s; a connection without any is dead
  const BUSY_S = 10; // where a 429 does not say when to come back

  const url = (task) =>
    new URL(`../v1/audio/${task === "translate" ? "translations" : "transcriptions"}`, document.baseURI);

  const fields = (item, model) => {
    const { language, words, silence, names, style } = item.settings;
    const form = new FormData();
    const add = (name, value) => value && form.append(name, value);
    form.append("model", model);
    form.append("stream", "true");
    form.append("response_format", "verbose_json");
    form.append("timestamp_granularities[]", "segment");
    add("timestamp_granularities[]", words && "word");
    add("language", language);
    add("hotwords", names);
    add("prompt", style);
    add("vad_filter", !silence && "false");
    add("resume_from", item.cursor);
    // Last: what is wrong with the fields is known before hours of sound were sent.
    if (item.path) form.append("path", item.path);
    else form.append("file", item.file, item.name);
    return form;
  };

  // What an answer that is no transcript means.
  const refused = (status, text, after) => {
    let said = null;
    try {
      said = JSON.parse(text).error;
    } catch {
      // a portal's own page
    }
    const message = said?.message || "";
    if (status === 429) return { how: "busy", after_s: Math.max(1, Number(after) || BUSY_S), message };
    if (status === 413 && !said) return { how: "refused", message: "The file is larger than the portal lets through." };
    // The sentences of our own server and gateway stand for themselves; their 5xx tell of an engine that is restarted.
    if (said && (status < 500 || status === 507) && status !== 401) return { how: "refused", message };
    return { how: "lost", message };
  };

  // Ask the session to listen to `item`. `told` is called on the way: sent(bytes, of), piece(segments, progress).
  // `over` says how it ended: done, refused, busy, lost, or left when `leave` was called.
  page.listen = (item, model, told) => {
    const request = new XMLHttpRequest();
    let [read, rest, pending, end, left] = [0, "", [], null, false];
    let heard = performance.now();

    const take = (event) => {
      if (event.error) {
        const dead = event.error.code === "engine_died" || event.error.type === "server_error";
        end ??= { how: dead ? "lost" : "refused", message: event.error.message || "" };
      } else if (event.type === "transcript.text.segment") {
        pending.push(event);
      } else if (event.type === "transcript.text.progress") {
        told.piece(pending, event); // only with its cursor: what comes after the last one is heard again
        pending = [];
      } else if (event.type === "transcript.text.done") {
        end ??= { how: "done", event, rest: pending };
      }
    };

    const grow = () => {
      heard = performance.now();
      if (request.status !== 200 || !request.getResponseHeader("Content-Type")?.startsWith("text/event-stream")) return;
      const text = request.responseText;
      const lines = (rest + text.slice(read)).split("\n");
      read = text.length;
      rest = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data:") || line.slice(5).trim() === "[DONE]") continue;
        let event;
        try {
          event = JSON.parse(line.slice(5));
        } catch {
          continue; // half a line, where a connection broke
        }
        take(event);
      }
    };

    const over = new Promise((resolve) => {
      request.upload.onprogress = (event) => {
        heard = performance.now();
        told.sent(event.loaded, event.total);
      };
      request.onprogress = grow;
      request.onload = () => {
        grow();
        const { status } = request;
        const after = request.getResponseHeader("Retry-After");
        resolve(end || (status === 200 ? { how: "lost", message: "" } : refused(status, request.responseText, after)));
      };
      request.onerror = () => resolve(end || { how: "lost", message: "" });
      request.onabort = () => resolve(end || { how: left ? "left" : "lost", message: "" });
    });

    const watching = setInterval(() => performance.now() - heard > SILENT_MS && request.abort(), 5000);
    over.then(() => clearInterval(watching));
    request.open("POST", url(item.settings.task));
    request.send(fields(item, model));
    return {
      over,
      leave: () => {
        left = true;
        request.abort();
      },
    };
  };
})();
