// Images in the browser: attached by button, paste or drop, made small, shown, kept in this tab.
// The chat only ever holds `[name](#picture-ID)`; conversation.js carries the images along with a question (pictures.py).
"use strict";

(() => {
  const SIDE_PX = 1568; // beyond this, vision models scale down themselves
  const AS_IT_IS_BYTES = 300 * 1024;
  const MOST_IN_A_QUESTION = 8;
  const MOST_CHARS = 24 * 1024 * 1024; // of all images of a conversation; frame.py takes 32 MiB with all the rest
  const READABLE = ["image/png", "image/jpeg", "image/webp", "image/gif"];
  const NONE = "This model reads no images.";

  const pictures = new Map(); // id → {name, url}
  let pending = []; // ids attached to the next question

  page.identity = () =>
    Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => (byte % 36).toString(36)).join("");

  // --- kept beside the conversation, one entry an image, as far as the tab's storage goes -------------------------
  const place = (id) => `${page.place()}#${id}`;
  const add = (name, url) => {
    const id = page.identity();
    pictures.set(id, { name, url });
    try {
      sessionStorage.setItem(place(id), JSON.stringify({ name, url }));
    } catch {
      // full: it is here until the page is loaded anew, and is missed then
    }
    return id;
  };
  const get = (id) => {
    if (!pictures.has(id)) {
      const stored = JSON.parse(sessionStorage.getItem(place(id)) || "null");
      if (stored) pictures.set(id, stored);
    }
    return pictures.get(id);
  };
  page.picturesOf = (ids) => Object.fromEntries(ids.filter(get).map((id) => [id, get(id).url]));
  page.forgetAllBut = (ids) => {
    const kept = new Set([...ids, ...pending, ...inEdit]);
    const stored = Object.keys(sessionStorage).filter((key) => key.startsWith(place("")));
    for (const id of [...pictures.keys(), ...stored.map((key) => key.slice(place("").length))]) {
      if (kept.has(id)) continue;
      pictures.delete(id);
      sessionStorage.removeItem(place(id));
    }
  };

  // --- attaching ------------------------------------------------------------------------------------------------
  const allowed = () => document.getElementById("pictures")?.dataset.allowed === "yes";
  const dataUrl = (blob) =>
    new Promise((resolve, reject) => {
      const reader = new FileReader();
      reader.onload = () => resolve(reader.result);
      reader.onerror = () => reject(reader.error);
      reader.readAsDataURL(blob);
    });

  // The image as a data: URL of a kind and size that models read: as it is when small, else drawn anew.
  const readable = async (file) => {
    const bitmap = await createImageBitmap(file);
    const scale = Math.min(1, SIDE_PX / Math.max(bitmap.width, bitmap.height));
    if (scale === 1 && file.size <= AS_IT_IS_BYTES && READABLE.includes(file.type)) return dataUrl(file);
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.round(bitmap.width * scale));
    canvas.height = Math.max(1, Math.round(bitmap.height * scale));
    const drawing = canvas.getContext("2d");
    drawing.fillStyle = "#fff"; // JPEG knows no transparency
    drawing.fillRect(0, 0, canvas.width, canvas.height);
    drawing.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    bitmap.close();
    return canvas.toDataURL("image/jpeg", 0.88);
  };

  const named = (file) => (file.name || "image").replace(/[^\p{L}\p{N} ._-]/gu, "").trim().slice(0, 60) || "image";

  const attach = async (files) => {
    const trouble = [];
    for (const [number, file] of [...files].entries()) {
      if (!allowed()) {
        trouble.push(NONE);
        break;
      }
      if (pending.length >= MOST_IN_A_QUESTION) {
        const out = files.length - number;
        const were = out === 1 ? "One image was" : `${out} images were`;
        trouble.push(`${were} left out: a question can have ${MOST_IN_A_QUESTION} images.`);
        break;
      }
      try {
        const url = await readable(file);
        const size = [...pictures.values()].reduce((sum, picture) => sum + picture.url.length, url.length);
        if (size > MOST_CHARS) {
          trouble.push("The images of this conversation are too large together. Start a new chat for more.");
          break;
        }
        pending.push(add(named(file), url));
      } catch {
        trouble.push(`"${named(file)}" is no image that this browser can read. Use PNG, JPEG, WebP or GIF.`);
      }
    }
    draw();
    if (trouble.length) complain(trouble.join(" "));
    else page.speak(`${pending.length} image${pending.length === 1 ? "" : "s"} attached.`);
  };

  page.attached = () => pending.map((id) => ({ id, name: get(id).name }));
  page.detach = () => {
    [pending, inEdit] = [[], []];
    draw();
  };
  // For a question that was taken back: its images are attached again, its words are returned.
  page.attachAgain = (text) => {
    const { images, words } = page.split(text || "");
    pending = [...pending, ...images.filter(({ url }) => url).map(({ id }) => id)];
    draw();
    page.write();
    return words;
  };

  // The references that a question begins with, as they stand there and one by one, and its words.
  page.split = (text) => {
    const before = text.match(/^(?:\[[^\]\n]*\]\(#picture-[0-9a-z]{8}\)\s*)+/)?.[0] || "";
    const images = [...before.matchAll(/\[([^\]\n]*)\]\(#picture-([0-9a-z]{8})\)/g)].map(([, name, id]) => ({
      id,
      name,
      url: get(id)?.url,
    }));
    return { before, images, words: text.slice(before.length) };
  };

  // --- the list above the entry -----------------------------------------------------------------------------------
  let complaint;
  const complain = (text) => {
    complaint = text;
    draw();
  };

  const draw = () => {
    const list = document.getElementById("pictures");
    if (!list) return;
    const items = pending.map((id, number) => {
      const { name, url } = get(id);
      const item = document.createElement("li");
      const image = Object.assign(document.createElement("img"), { src: url, alt: name });
      const remove = Object.assign(document.createElement("button"), { type: "button", textContent: "×" });
      remove.ariaLabel = `Remove ${name}`;
      remove.onclick = () => {
        pending.splice(number, 1);
        draw();
        page.write();
      };
      item.append(image, remove);
      return item;
    });
    if (complaint) {
      const item = Object.assign(document.createElement("li"), { className: "complaint", textContent: complaint });
      item.role = "alert";
      items.push(item);
      complaint = "";
    }
    list.replaceChildren(...items);
    list.hidden = !items.length;
  };

  const images = (transfer) => [...(transfer?.files || [])].filter((file) => file.type.startsWith("image/"));

  document.addEventListener("paste", (event) => {
    const found = images(event.clipboardData);
    if (!found.length || !event.target.closest?.("#entry")) return;
    event.preventDefault();
    attach(found);
  });
  document.addEventListener("dragover", (event) => {
    if ([...event.dataTransfer.types].includes("Files")) event.preventDefault();
  });
  document.addEventListener("drop", (event) => {
    if (!event.dataTransfer.files.length) return;
    event.preventDefault(); // else the browser would leave the page and show the file
    attach(event.dataTransfer.files);
  });

  // The button in the entry box; Gradio has none that would not upload.
  page.addAttachButton = () => {
    const box = document.querySelector("#entry .input-container");
    if (!box || !allowed() || document.getElementById("attach")) return;
    const input = Object.assign(document.createElement("input"), {
      type: "file",
      multiple: true,
      hidden: true,
      accept: READABLE.join(","),
    });
    input.onchange = async () => {
      await attach(input.files);
      input.value = "";
      page.write();
    };
    const button = Object.assign(document.createElement("button"), { id: "attach", type: "button" });
    button.ariaLabel = "Attach images";
    button.title = "Attach images (or paste or drop them)";
    button.innerHTML =
      '<svg viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="1.7" stroke-linecap="round" aria-hidden="true">' +
      '<path d="M20 11.5l-8.2 8.2a5.3 5.3 0 0 1-7.5-7.5l8.5-8.5a3.5 3.5 0 0 1 5 5l-8.6 8.5a1.8 1.8 0 0 1-2.5-2.5l7.8-7.8"/></svg>';
    button.onclick = () => input.click();
    box.prepend(button);
    box.append(input);
  };

  // --- in the conversation ----------------------------------------------------------------------------------------
  // Gradio shows a reference as a link; in its place comes the image.
  page.showPictures = () => {
    for (const link of document.querySelectorAll('#chat .user-row a[href^="#picture-"]')) {
      const name = link.textContent;
      const picture = get(link.getAttribute("href").slice("#picture-".length));
      const shown = picture
        ? Object.assign(document.createElement("img"), { className: "picture", src: picture.url, alt: name })
        : Object.assign(document.createElement("em"), { textContent: `${name} (no longer here)` });
      link.replaceWith(shown);
    }
    for (const area of document.querySelectorAll("#chat textarea.edit-textarea")) hideReferences(area);
  };

  // While a question is edited its references are kept here, so that only its words are in the field.
  let inEdit = [];
  let edited = "";
  const hideReferences = (area) => {
    if (area.dataset.seen) return;
    area.dataset.seen = "yes";
    const { before, images, words } = page.split(area.value);
    [edited, inEdit] = [before, images.map(({ id }) => id)];
    if (!before) return;
    area.value = words;
    area.dispatchEvent(new Event("input", { bubbles: true }));
  };
  page.edited = () => {
    const given = { before: edited, ids: inEdit };
    edited = "";
    return given;
  };
})();
