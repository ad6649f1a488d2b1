"""The dashboard's pages around an app's form and cards, for a browser: the HTML of 3.1 and of 4.2, Debian's Bootstrap.

Owns the page, the card around the three views and how a poll draws it anew, as read in the dashboard's sources
(views/batch_connect/, javascript/turbo_shim.js of 4.2.3, sessions/index.js.erb of 3.1.16). Its style sheets stand in
for the dashboard's own: Bootstrap as it comes, Font Awesome, and in dashboard.css what a card or a form meets.

    page = sessions_page("4.2", [Shown(card, "id", "Inference")])   # a whole HTML document
    browser_page.evaluate(REDRAW["4.2"], sessions("4.2", cards))    # what a poll does ten seconds later
    form_page("4.2", ood.form(), script=(ood.app_dir / "form.js").read_text())
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from tests.app.ondemand import Card, Field, Form, Version

BOOTSTRAP = {
    "3.1": Path("/usr/share/javascript/bootstrap4/css/bootstrap.min.css"),
    "4.2": Path("/usr/share/javascript/bootstrap5/css/bootstrap.min.css"),
}
PACKAGES = {"3.1": "libjs-bootstrap4", "4.2": "libjs-bootstrap5"}
FONT_AWESOME = Path("/usr/share/fonts-font-awesome")
_RULES = Path(__file__).parent / "dashboard.css"

# What the browser does with the cards of a poll: 4.2 draws all of them and runs their scripts, 3.1 those that changed.
REDRAW = {
    "4.2": """html => {
        const box = document.getElementById("batch_connect_sessions");
        const focused = document.activeElement && document.activeElement.id;
        box.innerHTML = html;
        box.querySelectorAll("script").forEach(old => {
            const script = document.createElement("script");
            script.appendChild(document.createTextNode(old.innerHTML));
            old.parentNode.replaceChild(script, old);
        });
        const next = focused && document.getElementById(focused);
        if (next) next.focus();
    }""",
    "3.1": """html => {
        const fresh = document.createElement("div");
        fresh.innerHTML = html;
        fresh.querySelectorAll(".session-panel").forEach(panel => {
            const old = document.getElementById(panel.id);
            if (old.dataset.hash === panel.dataset.hash) return;
            old.replaceWith(panel);
            panel.querySelectorAll("script").forEach(text => {
                const script = document.createElement("script");
                script.text = text.textContent;
                document.head.appendChild(script).remove();
            });
        });
    }""",
}

# How `bc_dynamic_js` hides what a box says (dynamic_forms.js, updateVisibility): 4.x by a class of the wrapper, 3.1 by
# the style of the outermost group. The last box or list that says something of a field wins.
_HIDE = """() => document.querySelectorAll("input[type=checkbox]").forEach(box => {
        const start = "batch_connect_session_context_";
        const names = Object.keys(box.dataset).map(key => /^hide(.+)WhenUnchecked$/.exec(key)).filter(Boolean)
            .map(found => found[1].replace(/(?!^)([A-Z])/g, "_$1").toLowerCase());
        const update = () => names.forEach(name => { const visible = box.checked; HIDE });
        box.addEventListener("change", update);
        update();
    })"""
_DYNAMIC = {
    "4.2": _HIDE.replace(
        "HIDE", 'document.getElementById(`${start}${name}_wrapper`).classList.toggle("d-none", !visible);'
    ),
    "3.1": _HIDE.replace(
        "HIDE",
        'document.getElementById(start + name).closest(".form-group").style.display = visible ? "" : "none";',
    ),
}

_COLOURS = {
    "Starting": "primary",
    "Running": "success",
    "Queued": "info",
    "Completed": "default",
    "Suspended": "danger",
}
_BODIES = {
    "Queued": "Please be patient as your job currently sits in queue. The wait time depends on the number of cores as "
    "well as time requested.",
    "Starting": "Your session is currently starting... Please be patient as this process can take a few minutes.",
    "Completed": "For debugging purposes, this card will be retained for 7 more days",
}


@dataclass(frozen=True)
class Shown:
    """One card of the page; `hash` is 3.1's word for "changed since"."""

    card: Card
    id: str
    title: str = "Inference"
    created: str = "2026-11-21 14:02:11 CET"
    time: str = "Time Remaining: 58 minutes"
    size: tuple[str, ...] = ("1 node", "2 cores")
    hash: str = "a"


def sessions_page(version: Version, cards: list[Shown], *, policy: str = "") -> str:
    """The page "My Interactive Sessions"; `policy` is a Content-Security-Policy as a site may set it."""
    inner = f'<div id="batch_connect_sessions">{sessions(version, cards)}</div>'
    return _page(
        version,
        "My Interactive Sessions",
        f'<div class="row"><div class="col-md-9">{inner}</div></div>',
        policy,
    )


def sessions(version: Version, cards: list[Shown]) -> str:
    """What a poll answers: the cards."""
    return f'<div class="batch-connect sessions">{"".join(_card(version, card) for card in cards)}</div>'


def form_page(version: Version, form: Form, *, dynamic: bool = False, script: str = "") -> str:
    """The app's form; `dynamic` is a site with `bc_dynamic_js`, `script` the app's form.js."""
    group, label = ("form-group", "") if version == "3.1" else ("mb-3", "form-label")
    fields = "".join(_field(version, field, group, label) for field in form.fields.values())
    launch = '<input type="submit" class="btn btn-primary btn-block" value="Launch">'
    if version == "4.2":
        launch = (
            '<div class="d-grid gap-2"><input type="submit" class="btn btn-primary" value="Launch"></div>'
        )
    # OOD's own script waits for the whole page, form.js does not.
    scripts = f"<script>(function(){{\n{script}\n}}());</script>" if script else ""
    if dynamic:
        scripts = f"<script>addEventListener('DOMContentLoaded', {_DYNAMIC[version]})</script>{scripts}"
    inner = (
        f'<div class="row justify-content-center"><div class="col-md-8"><h3>{escape(form.title)}</h3>'
        f'<div class="ood-appkit markdown">{form.description}{form.header}'
        f"<form>{fields}{launch}</form>{scripts}</div></div></div>"
    )
    return _page(version, f"My Interactive Sessions / {form.title}", inner)


def _page(version: Version, crumbs: str, inner: str, policy: str = "") -> str:
    font = base64.b64encode((FONT_AWESOME / "fonts/fontawesome-webfont.woff2").read_bytes()).decode()
    awesome = (FONT_AWESOME / "css/font-awesome.min.css").read_text(encoding="utf-8").partition("}")[2]
    face = f"@font-face{{font-family:FontAwesome;src:url(data:font/woff2;base64,{font})}}"
    widths = "".join(f".w-{percent}{{width:{percent}%}}" for percent in range(1, 101))
    styles = (
        BOOTSTRAP[version].read_text(encoding="utf-8")
        + awesome
        + face
        + widths
        + _RULES.read_text(encoding="utf-8")
    )
    guard = f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">' if policy else ""
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{escape(crumbs)}</title>'
        f'<style nonce="page">{styles}</style>{guard}'
        '<meta name="viewport" content="width=device-width, initial-scale=1"></head><body>'
        '<header><nav class="navbar shadow-sm"><a class="navbar-brand" href="#">Open OnDemand</a></nav></header>'
        '<main class="container-md container content mt-4">'
        f'<ol class="breadcrumb mb-3"><li>Home / {escape(crumbs)}</li></ol>{inner}</main></body></html>'
    )


def _card(version: Version, shown: Shown) -> str:
    card, right, end = shown.card, *(("float-right", "ml-2") if version == "3.1" else ("float-end", "ms-2"))
    colour = _COLOURS.get(card.state, "warning")
    badge = f"badge badge-{colour} badge-pill" if version == "3.1" else f"badge bg-{colour} rounded-pill"
    alive = card.state in ("Starting", "Running")
    sizes = "".join(f'<span class="{badge}">{size}</span> | ' for size in shown.size) if alive else ""
    header = (
        f"card-header overflow-auto alert-{colour}"
        if version == "3.1"
        else f"h5 card-header overflow-auto alert alert-{colour}"
    )
    tag = "h5" if version == "3.1" else "div"
    button = "Cancel" if card.state != "Completed" else "Delete"
    host = f"<p><strong>Host:</strong> {escape(str(card.connection['host']))}</p>" if card.connection else ""
    label, _, span = shown.time.partition(": ")
    view = card.view_html if card.state == "Running" else f"<p>{_BODIES.get(card.state, '')}</p>"
    ended = f"<hr><div>{card.completed_html}</div>" if card.completed_html is not None else ""
    heading = (
        f'<{tag} class="{header}"><a href="#" class="alert-heading">{escape(shown.title)}</a>'
        f'<span class="card-text"> ({card.job_id})</span><div class="{right} {end}">{sizes}{card.state}</div></{tag}>'
    )
    stop = (
        f'<button class="btn btn-danger {right}"><span class="fa fa-times-circle"></span> {button}</button>'
    )
    return (
        f'<div id="id_{shown.id}" class="card session-panel mb-4" data-id="{shown.id}" data-hash="{shown.hash}">'
        f'<div class="card-heading">{heading}</div><div class="card-body"><div><div class="{right}">{stop}</div>'
        f"{host}<p><strong>Created at:</strong> {shown.created}</p><p><strong>{label}:</strong> {span}</p>"
        f'<p><strong>Session ID:</strong> <a href="#">{shown.id}</a></p>'
        f"<hr><div>{card.info_html or ''}</div>{ended}</div>"
        f'<div><hr><div class="ood-appkit markdown">{view}</div></div></div></div>'
    )


def _field(version: Version, field: Field, group: str, label: str) -> str:
    identity = f"batch_connect_session_context_{field.id}"
    about = f'id="{identity}" name="batch_connect_session_context[{field.id}]"'
    help_ = (
        f'<small class="form-text text-muted">{field.help.removeprefix("<p>").strip().removesuffix("</p>")}</small>'
        if field.help
        else ""
    )
    required = " required" if field.required else ""
    value = escape(field.value)
    if field.widget == "hidden_field":
        return f'<input type="hidden" {about} value="{value}">'
    name = f'<label class="{label}{" required" if required else ""}" for="{identity}">{escape(field.label)}</label>'
    if field.widget == "check_box":
        data = "".join(
            f' data-{escape(key)}="{str(v).lower()}"' for key, v in field.html_options.get("data", {}).items()
        )
        check = f'<input class="form-check-input" type="checkbox" {about} value="1"{data}>'
        words = f'<label class="form-check-label" for="{identity}">{escape(field.label)}</label>'
        inner = f'<div class="form-check">{check}{words}</div>{help_}'
    elif field.widget == "select":
        options = "".join(_group(label, group, field.posted) for label, group in field.groups)
        kind = "form-control" if version == "3.1" else "form-select"
        inner = f'{name}<select class="{kind}" {about}{required}>{options}</select>{help_}'
    else:
        kind = "number" if field.widget == "number_field" else "text"
        limits = "".join(f' {key}="{field.others[key]}"' for key in ("min", "max") if key in field.others)
        inner = f'{name}<input class="form-control" type="{kind}" {about} value="{value}"{limits}{required}>{help_}'
    whole = f'<div class="{group}">{inner}</div>'
    return whole if version == "3.1" else f'<div id="{identity}_wrapper">{whole}</div>'


def _group(label: str, options: list[list[Any]], chosen: str) -> str:
    inner = "".join(_option(option, chosen) for option in options)
    return f'<optgroup label="{escape(label)}">{inner}</optgroup>' if label else inner


def _option(option: list[Any], chosen: str) -> str:
    label, value, data = option[0], option[1], option[2] if len(option) > 2 else {}
    said = "".join(f' {escape(key)}="{escape(str(v).lower())}"' for key, v in data.items())
    return f'<option value="{escape(value)}"{said}{" selected" if value == chosen else ""}>{escape(label)}</option>'
