// What a card can do where scripts may run: copy, and stay open. Without them all of it can still be read and selected.
// OOD 4.x draws every card anew each ten seconds, 3.1 those whose state or minute changed; both run this again then.
// card.py joins these lines to one: no comment but on a line of its own, a semicolon after each statement.
(function () {
  var cards = window.inferenceCards;

  function show(root) {
    root.querySelectorAll("button.inference-copy").forEach(function (button) { button.hidden = false; });
    root.querySelectorAll("details.inference").forEach(function (part) {
      if (cards.open[part.id]) { part.open = true; }
    });
  }

  function said(button, done) {
    var word = done ? "Copied" : "Not copied: select it and press Ctrl+C";
    button.firstChild.nodeValue = word;
    cards.status.textContent = word;
    setTimeout(function () { button.firstChild.nodeValue = "Copy"; cards.status.textContent = ""; }, 2000);
  }

  // The clipboard of old: what is selected, on the user's own click. Portals on plain http have no other.
  function copySelected(button, text) {
    var box = document.createElement("textarea");
    var done = false;
    box.className = "sr-only visually-hidden";
    box.readOnly = true;
    box.value = text;
    button.parentNode.appendChild(box);
    box.select();
    try { done = document.execCommand("copy"); } catch (error) { done = false; }
    box.remove();
    button.focus({ preventScroll: true });
    said(button, done);
  }

  function copy(button) {
    var source = document.getElementById(button.getAttribute("data-copies"));
    var text = "value" in source ? source.value : source.textContent;
    if (!navigator.clipboard) { copySelected(button, text); return; }
    navigator.clipboard.writeText(text).then(
      function () { said(button, true); },
      function () { copySelected(button, text); }
    );
  }

  if (!cards) {
    cards = window.inferenceCards = { open: {}, status: document.createElement("div") };
    cards.status.className = "sr-only visually-hidden";
    cards.status.setAttribute("role", "status");
    document.addEventListener("toggle", function (event) {
      if (event.target.matches("details.inference")) { cards.open[event.target.id] = event.target.open; }
    }, true);
    document.addEventListener("click", function (event) {
      var button = event.target.closest("button.inference-copy");
      var part = event.target.closest("details.inference > summary");
      if (button) { copy(button); }
      // The toggle event comes a moment later; a poll in between would close what was just opened.
      if (part) { cards.open[part.parentNode.id] = !part.parentNode.open; }
    });
  }

  function begin() {
    document.body.appendChild(cards.status);
    show(document);
  }
  if (document.readyState === "loading") { document.addEventListener("DOMContentLoaded", begin); } else { begin(); }
})();
