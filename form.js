// Hides what the chosen model has no use for, as its option says in data-without (launcher/ondemand/fields.py).
// OOD puts this below the form. Its own directives cannot do it: there the last one wins, and ticking More options would
// show what the model had hidden. They hide by a class (4.x) or a style (3.1), this by the attribute `hidden`, so that a
// field is seen where neither hides it. It is disabled too: the browser neither checks nor posts what nobody sees.
// Where a site forbids scripts all fields are there, and `launcher plan` leaves out what the model has no use for.
var start = "batch_connect_session_context_";
var model = document.getElementById(start + "model");
var other = document.getElementById(start + "custom_model");
var all = [];

function without(option) {
  return (option && option.getAttribute("data-without") || "").split(" ").filter(Boolean);
}

// 4.x has a wrapper around each field; in 3.1 it is the outermost group.
function whole(input) {
  var found = document.getElementById(input.id + "_wrapper");
  for (var node = input; !found && node; node = node.parentElement) {
    if (node.classList.contains("form-group") && !node.parentElement.closest(".form-group")) { found = node; }
  }
  return found;
}

function show() {
  // Of a model that is named by hand nothing is known.
  var unused = other && other.value.trim() ? [] : without(model.options[model.selectedIndex]);
  all.forEach(function (name) {
    var input = document.getElementById(start + name);
    var part = input && whole(input);
    if (!part) { return; }
    part.hidden = unused.indexOf(name) >= 0;
    input.disabled = part.hidden;
  });
}

if (model && model.options) {
  Array.prototype.forEach.call(model.options, function (option) {
    without(option).forEach(function (name) { if (all.indexOf(name) < 0) { all.push(name); } });
  });
  // Whatever changes: with other hardware OOD may choose another model.
  document.addEventListener("change", show);
  document.addEventListener("input", show);
  window.addEventListener("pageshow", show);
  show();
}
