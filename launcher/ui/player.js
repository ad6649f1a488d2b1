// The sound of the chosen file: from this computer, or from the cluster through the page's own process (sounds.py).
"use strict";

(() => {
  const LEFT_ALONE_MS = 4000; // whoever has just scrolled is not pulled back to the line that is heard

  let url = null; // an object URL, to be given back
  let loading = null; // the item whose sound is being fetched
  let from_s = null; // where to begin once the sound is there
  let scrolled = -Infinity;

  const sound = () => document.getElementById("sound");
  const tell = (text) => {
    document.getElementById("silent").textContent = text;
    document.getElementById("silent").hidden = !text;
    document.getElementById("player").hidden = Boolean(text);
  };

  const unload = () => {
    sound().removeAttribute("src");
    sound().load();
    if (url) URL.revokeObjectURL(url);
    [url, from_s] = [null, null];
  };

  page.hearNothing = () => {
    loading = null;
    unload();
    tell("");
    document.getElementById("player").hidden = true;
  };

  page.load = async (item) => {
    loading = item;
    unload();
    tell("");
    if (item.file) {
      url = URL.createObjectURL(item.file);
      sound().src = url;
    } else if (item.path) {
      const answer = await fetch(new URL("sounds", document.baseURI), { method: "POST", body: JSON.stringify({ path: item.path }) }).catch(() => null);
      const said = await answer?.json().catch(() => null);
      if (loading !== item) return;
      if (answer?.ok && said) sound().src = new URL(`sounds/${said.id}`, document.baseURI);
      else tell(said?.error?.message || "The sound cannot be fetched from the session.");
    } else tell(item.kind === "recording" ? "The sound of this recording was not saved." : "To hear it, choose the file again.");
  };

  page.playing = () => !sound().paused;
  page.toggle = () => (sound().paused ? play() : sound().pause());

  const play = () => sound().play().catch(() => {}); // what is wrong comes as an event, too

  page.hear = (time_s) => {
    if (!sound().hasAttribute("src")) return;
    if (sound().readyState === 0) from_s = time_s;
    else sound().currentTime = time_s;
    play();
    page.light(time_s, false);
  };

  page.begun.push(() => {
    const audio = sound();
    audio.addEventListener("loadedmetadata", () => {
      // Browsers write recordings without their length, and find it only at their end.
      if (audio.duration === Infinity) {
        audio.addEventListener("durationchange", () => (audio.currentTime = from_s || 0), { once: true });
        audio.currentTime = 1e9;
      } else if (from_s) audio.currentTime = from_s;
    });
    audio.addEventListener("timeupdate", () => {
      const watched = performance.now() - scrolled > LEFT_ALONE_MS;
      if (!audio.paused || audio.currentTime > 0) page.light(audio.currentTime, !audio.paused && watched);
    });
    audio.addEventListener("error", () => {
      if (!audio.hasAttribute("src")) return;
      tell("This browser cannot play the sound of this file. Its transcript is not touched by that.");
    });
    const speed = document.getElementById("speed");
    speed.onchange = () => (audio.playbackRate = audio.defaultPlaybackRate = Number(speed.value));
    for (const kind of ["wheel", "touchmove"]) {
      document.getElementById("lines").addEventListener(kind, () => (scrolled = performance.now()), { passive: true });
    }
  });

  // Space anywhere but where it means something else.
  const OWN = "input, textarea, select, audio, [contenteditable], [role='tab'], summary, button:not(.at)";
  for (const kind of ["keydown", "keyup"]) {
    document.addEventListener(kind, (event) => {
      if (event.key !== " " || event.ctrlKey || event.altKey || event.metaKey || event.defaultPrevented) return;
      if (event.target.closest?.(OWN) || !page.chosen()?.lines.length) return;
      event.preventDefault();
      if (kind === "keydown" && !event.repeat) page.toggle();
    });
  }
})();
