// The transcribe page's own controls: files that are chosen or dropped, a path, language, task, settings, downloads.
"use strict";

(() => {
  const PLAIN = { language: "", task: "transcribe", words: false, silence: true, names: "", style: "" };

  page.stays = "The transcripts stay in this tab until you close it; you can still edit and download them.";
  page.parts.push("work");
  page.write = () => document.getElementById("choose")?.focus();

  const by = (id) => document.getElementById(id);
  page.model = () => by("work").dataset.model;

  // --- settings -----------------------------------------------------------------------------------------------------
  let side = { ...PLAIN, ...page.keptRest().settings }; // those in the tab "Settings", as Gradio tells them
  page.settings = () => ({ ...side, language: by("language").value, task: by("task").value });
  page.settled = (words, silence, names, style) => {
    side = { ...side, words: Boolean(words), silence: silence !== false, names: (names || "").trim(), style: (style || "").trim() };
    if (by("work")) page.keepQueue();
  };
  page.settledBefore = () => [side.words, side.silence, side.names, side.style];

  page.languageName = (code) => {
    if (!code) return "";
    return [...by("language").options].find(({ value }) => value === code)?.textContent || code;
  };

  // The model may know fewer languages than Whisper does.
  const knows = async () => {
    const answer = await fetch(new URL("../v1/models", document.baseURI)).catch(() => null);
    const models = answer?.ok ? (await answer.json().catch(() => null))?.data : null;
    const model = models?.find(({ id }) => id === page.model()) || models?.[0];
    if (!model) return;
    if (Array.isArray(model.languages)) {
      for (const option of [...by("language").options]) {
        if (option.value && !model.languages.includes(option.value)) option.remove();
      }
    }
    if (model.multilingual === false) {
      by("task").value = "transcribe";
      for (const id of ["language", "task"]) by(id).closest("label").hidden = true;
    }
  };

  // --- adding -------------------------------------------------------------------------------------------------------
  const isFolder = (entry) => entry.webkitGetAsEntry?.()?.isDirectory;

  const drop = (transfer) => {
    const folders = [...transfer.items].filter((entry) => entry.kind === "file" && isFolder(entry)).length;
    const files = [...transfer.items].filter((entry) => entry.kind === "file" && !isFolder(entry)).map((entry) => entry.getAsFile());
    if (folders) page.tell("A folder cannot be dropped here: choose the files in it. For folders on the cluster there is: launcher transcribe.");
    page.addFiles(files.filter(Boolean));
  };

  const dragging = () => {
    let depth = 0;
    const over = (yes) => document.documentElement.classList.toggle("dropping", yes);
    const withFiles = (event) => [...event.dataTransfer.types].includes("Files");
    document.addEventListener("dragenter", (event) => withFiles(event) && over((depth += 1) > 0));
    document.addEventListener("dragleave", (event) => withFiles(event) && over((depth -= 1) > 0));
    document.addEventListener("dragover", (event) => withFiles(event) && event.preventDefault());
    document.addEventListener("drop", (event) => {
      over(Boolean((depth = 0)));
      if (!withFiles(event)) return;
      event.preventDefault(); // else the browser would leave the page and play the file
      drop(event.dataTransfer);
    });
  };

  const adding = () => {
    const input = by("files");
    by("choose").onclick = () => input.click();
    input.onchange = () => {
      page.addFiles(input.files);
      input.value = "";
    };
    by("from-path").addEventListener("submit", (event) => {
      event.preventDefault();
      const path = by("path").value.trim();
      if (!path) return by("path").focus();
      page.addPath(path);
      by("path").value = "";
    });
    const more = by("more");
    more.onclick = () => more.setAttribute("aria-expanded", String(by("add").classList.toggle("open")));
    for (const id of ["language", "task"]) by(id).onchange = page.keepQueue;
  };

  // --- downloads ----------------------------------------------------------------------------------------------------
  const save = async (kind) => {
    const item = page.chosen();
    if (kind === "copy") {
      await navigator.clipboard.writeText(page.written("txt", item.lines, {}));
      page.speak("Copied.");
      return;
    }
    const language = item.finished || page.languageName(item.language).toLowerCase();
    const about = { language, duration: item.duration_s ?? item.done_s, task: item.settings?.task || "transcribe", words: item.settings?.words };
    page.save(kind, item.name.replace(/(?<=.)\.[^.]{1,5}$/, ""), item.lines, about);
    if (item.kind === "recording" && item.file) return; // its sound is not saved by that
    item.unsaved = false;
    page.keep(item);
  };

  page.begun.push(() => {
    const { order, chosen, settings } = page.keptRest();
    adding();
    dragging();
    by("save").addEventListener("click", (event) => {
      const kind = event.target.closest("[data-save]")?.dataset.save;
      if (kind) save(kind);
    });
    if (settings) {
      by("language").value = settings.language;
      by("task").value = settings.task;
      if (!by("task").value) by("task").value = PLAIN.task;
    }
    page.restoreQueue(order, chosen);
    knows();
  });
})();
