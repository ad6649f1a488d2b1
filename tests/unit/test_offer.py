"""The form as plain data: what is offered, what is remembered, and that no text can break it."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.api import Launcher
from launcher.models.inspect.facts import facts
from launcher.models.resolve import ResolvedModel
from launcher.ondemand.offer import offer
from launcher.ondemand.plain import directive, markdown, plain
from launcher.ondemand.weighed import Weighing
from launcher.ondemand.words import in_the_forms_words
from launcher.settings.layers import load
from launcher.settings.schema import FORM_FIELDS
from tests.app import sites
from tests.hostile import HOSTILE

ODD = [
    "\ud800",
    "a\u0085b",
    "a\u2028b",
    "\ufeff",
    "a\x7fb",
    "\x9b",
    "\U0001f600",
    "\0",
    "\ufffe",
    "a\u202eb",
    "\t\r\n",
]


def _launcher(folder: Path, settings: dict[str, Any]) -> Launcher:
    (folder / "site.yml").write_text(yaml.safe_dump(settings, sort_keys=False))
    places = {"LAUNCHER_PLACES__CACHE": str(folder / "cache"), "LAUNCHER_FORM__LIVE": "false"}
    return Launcher(
        load({"LAUNCHER_SITE": str(folder / "site.yml"), "LAUNCHER_CONFIG": os.devnull, **places})
    )


@pytest.fixture
def site(tmp_path: Path) -> dict[str, Any]:
    sites.write_model(tmp_path / "models" / "org" / "first", sites.LLAMA, sites.GB)
    return sites.MINIMAL | {"models": {"folders": [str(tmp_path / "models")], "cache": str(tmp_path / "hub")}}


def _models(form: dict[str, Any]) -> list[str]:
    options = form["attributes"]["model"]["options"]
    lines = [line for _, group in options for line in group] if isinstance(options[0][-1], list) else options
    return [line[1] for line in lines]


def test_a_new_model_and_a_changed_site_are_seen_at_once(tmp_path: Path, site: dict[str, Any]) -> None:
    assert "org/first" in _models(offer(_launcher(tmp_path, site)))
    sites.write_model(tmp_path / "models" / "org" / "second", sites.LLAMA, sites.GB)
    assert "org/second" in _models(offer(_launcher(tmp_path, site)))
    site = site | {"catalog": {"mine": {"title": "Mine", "id": "org/second"}}}
    models = _models(offer(_launcher(tmp_path, site)))
    assert "mine" in models
    assert "org/second" not in models


def test_nothing_is_weighed_twice(tmp_path: Path, site: dict[str, Any]) -> None:
    first = offer(_launcher(tmp_path, site))
    file = tmp_path / "cache" / "form.json"
    written = file.stat()
    assert offer(_launcher(tmp_path, site)) == first
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (written.st_ino, written.st_mtime_ns)
    assert written.st_mode & 0o777 == 0o600


def test_what_another_user_remembers_is_not_believed(tmp_path: Path, site: dict[str, Any]) -> None:
    """A cache that users share: help texts are Markdown, where HTML would be believed."""
    first = offer(_launcher(tmp_path, site))
    file = tmp_path / "cache" / "form.json"
    memory = json.loads(file.read_text())
    memory["form"]["attributes"]["model"]["help"] = "<script>alert(1)</script>"
    file.write_text(json.dumps(memory))
    assert offer(_launcher(tmp_path, site)) != first  # it is this user's own
    file.chmod(0o666)
    assert offer(_launcher(tmp_path, site)) == first


@pytest.mark.parametrize("kind", ["pipe", "link", "folder", "too large"])
def test_a_memory_that_is_no_plain_file_is_not_read(tmp_path: Path, site: dict[str, Any], kind: str) -> None:
    first = offer(_launcher(tmp_path, site))
    file = tmp_path / "cache" / "form.json"
    memory = json.loads(file.read_text())
    memory["form"]["attributes"]["model"]["help"] = "<script>alert(1)</script>"
    file.unlink()
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind == "link":
        (tmp_path / "elsewhere.json").write_text(json.dumps(memory))
        file.symlink_to(tmp_path / "elsewhere.json")
    else:
        file.write_text(json.dumps(memory) + " " * 50_000_000)
    assert offer(_launcher(tmp_path, site)) == first


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives a folder away")
def test_in_another_users_cache_nothing_is_remembered(tmp_path: Path, site: dict[str, Any]) -> None:
    (tmp_path / "cache").mkdir()
    os.chown(tmp_path / "cache", 12345, 12345)
    first = offer(_launcher(tmp_path, site))
    assert "org/first" in _models(first)
    assert not (tmp_path / "cache" / "form.json").exists()
    planted = json.dumps({"key": None, "form": {"attributes": {}}, "weighed": {}})
    (tmp_path / "cache" / "form.json").write_text(planted)
    assert offer(_launcher(tmp_path, site)) == first
    assert (tmp_path / "cache" / "form.json").read_text() == planted


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"key": 1}', "\0" * 100, "[" * 100_000])
def test_a_damaged_memory_is_made_anew(tmp_path: Path, site: dict[str, Any], damage: str) -> None:
    first = offer(_launcher(tmp_path, site))
    (tmp_path / "cache" / "form.json").write_text(damage)
    assert offer(_launcher(tmp_path, site)) == first


def test_a_cache_that_cannot_be_written_is_no_trouble(tmp_path: Path, site: dict[str, Any]) -> None:
    (tmp_path / "cache").write_text("a file")
    assert "org/first" in _models(offer(_launcher(tmp_path, site)))


def test_what_there_was_no_time_to_weigh_is_weighed_the_next_time(
    tmp_path: Path, site: dict[str, Any]
) -> None:
    small = {"cluster": "test", "gpus": 1, "gpu_memory_gb": 1}
    settings = _launcher(tmp_path, site | {"profiles": {"small": small, "all": {"cluster": "test"}}}).settings
    profiles = list(settings.profiles.values())
    folder = sites.write_model(tmp_path / "other", sites.LARGE, sites.GB)
    over, soon = time.monotonic() - 1, time.monotonic() + 60

    def misfits(weighing: Weighing, path: Path) -> frozenset[str]:
        return weighing.misfits(ResolvedModel("org/m", path, None, "", None), facts(path), profiles).profiles

    first, second = tmp_path / "models" / "org" / "first", folder
    done = Weighing(settings, profiles, {}, soon)
    assert misfits(done, first) == {"small"}
    assert done.complete
    # What was weighed before is known without any time; what is new is passed over, and that is not forgotten.
    hurried = Weighing(settings, profiles, json.loads(json.dumps(done.memory)), over)
    assert misfits(hurried, first) == {"small"}
    assert misfits(hurried, second) == set()
    assert not hurried.complete
    assert misfits(Weighing(settings, profiles, hurried.memory, soon), second) == {"small"}
    # Other hardware: all of it anew.
    assert misfits(Weighing(settings, profiles[1:], done.memory, over), first) == set()


@pytest.mark.parametrize(
    "memory", [{"digest": 1}, {"found": []}, {"found": {"x": 1}}, {"digest": None, "found": None}]
)
def test_a_memory_of_another_shape_is_none(
    tmp_path: Path, site: dict[str, Any], memory: dict[str, Any]
) -> None:
    settings = _launcher(tmp_path, site).settings
    assert Weighing(settings, [], memory, 0).memory["found"] == {}


def test_of_several_commits_the_branch_main_is_offered(tmp_path: Path, site: dict[str, Any]) -> None:
    repository = tmp_path / "hub" / "models--org--twice"
    for number, commit in enumerate(("a" * 40, "b" * 40)):
        sites.write_model(repository / "snapshots" / commit, sites.LLAMA, (number + 1) * sites.GB)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("b" * 40)
    options = offer(_launcher(tmp_path, site))["attributes"]["model"]["options"]
    assert [line[0] for _, group in options for line in group if line[1] == "org/twice"] == [
        "org/twice (2.0 GB)"
    ]


def test_a_site_without_a_slurm_cluster_says_so(tmp_path: Path) -> None:
    form = offer(_launcher(tmp_path, {}))
    assert "describes no profile on a Slurm cluster" in form["form_header"]
    assert form["form"] == ["notice"]


def test_hardware_that_another_launcher_plans_for_is_not_in_the_form(
    tmp_path: Path, site: dict[str, Any]
) -> None:
    far = {"ssh": "far", "launcher": "/apps/launcher"}
    more = {
        "clusters": {**site["clusters"], "far": far},
        "profiles": {"theirs": {"cluster": "far"}, **site["profiles"]},
    }
    form = offer(_launcher(tmp_path, site | more))
    assert form == offer(_launcher(tmp_path, site))
    assert "far" not in json.dumps(form)
    only = offer(_launcher(tmp_path, {"clusters": {"far": far}, "profiles": {"theirs": {"cluster": "far"}}}))
    assert "describes no profile on a Slurm cluster" in only["form_header"]


@pytest.mark.parametrize("text", [*HOSTILE, *ODD])
def test_no_character_makes_the_form_invalid(text: str) -> None:
    """libyaml refuses some characters, and then the whole app is gone from the menu."""
    shown = plain(f"x {text} y")
    assert len(shown) <= 120
    assert shown.isprintable()
    assert yaml.load(json.dumps({"a": shown}, ensure_ascii=False), Loader=yaml.CSafeLoader) == {"a": shown}


def test_a_readable_text_stays_as_it_is() -> None:
    for text in ('Größe "L" <b> \U0001f600 日本語 — it\'s', "a/b:c {1}"):
        assert plain(text) == text


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_has_no_sign_left_that_means_something(text: str) -> None:
    assert not re.search(r"(?<!\\)[<>*_`\[\]#!|~&=]", markdown(text))


@pytest.mark.parametrize(
    "value", ["gpu-small", "gpu_small", "80gb_a100", "A-1", "a100-80gb", "gamma.x", "H200x4"]
)
def test_a_directive_is_the_name_that_the_forms_script_looks_for(value: str) -> None:
    """The two rules are those of OOD's dynamic_forms.js (mountainCaseWords) and of a browser's `dataset`."""
    words = re.sub(
        r"[-_]([a-z])|([_-][0-9])",
        lambda m: m[1].upper() if m[1] else m[2].replace("_", "-"),
        value[0].upper() + value[1:].lower(),
    )
    wanted = f"optionForProfile{'-' if words[0].isdigit() else ''}{words}"
    attribute = f"option-for-profile-{directive(value)}"
    assert re.sub(r"-([a-z])", lambda m: m[1].upper(), attribute) == wanted


@pytest.mark.parametrize("value", ["a__b", "a_-b", "-a", "a-", "a b", 'a"b', "<a>", "ä", ""])
def test_what_the_forms_script_cannot_match_has_no_directive(value: str) -> None:
    assert directive(value) is None


def test_the_fields_that_a_site_may_hide_are_the_forms(tmp_path: Path, site: dict[str, Any]) -> None:
    profile = {"cluster": "test", "gpus": 1, "gpus_max": 2, "qos_choices": ["long"]}
    site = site | {"profiles": {"all": profile}, "allow": {"trust_remote_code": True}}
    assert set(offer(_launcher(tmp_path, site))["form"]) == set(FORM_FIELDS)


def test_the_most_gpus_are_those_of_one_node(tmp_path: Path, site: dict[str, Any]) -> None:
    profile = {"cluster": "test", "nodes": 2, "gpus": 1, "gpus_max": 8}
    site = site | {"profiles": {"two": profile}, "limits": {"gpus": 8}}
    asked = offer(_launcher(tmp_path, site))["attributes"]["gpus"]
    assert (asked["max"], asked["help"].partition(";")[0]) == (4, "On each node")


def test_the_form_says_what_is_taken_and_how_a_context_is_written(
    tmp_path: Path, site: dict[str, Any]
) -> None:
    profile = {"cluster": "test", "gpus": 1}
    fields = offer(_launcher(tmp_path, site | {"profiles": {"a": profile, "b": profile}}))["attributes"]
    assert "from the top" in fields["profile"]["help"]
    assert (
        fields["context_length"]["widget"] == "text_field"
    )  # a number field would not take what the help says
    assert "`32k`" in fields["context_length"]["help"]


@pytest.mark.parametrize(
    ("hint", "said"),
    [
        (
            "Take a context of at most 4096 tokens (--max-model-len 4096).",
            'Take a context of at most 4096 tokens ("Context length" 4096).',
        ),
        ("Take 4 GPUs (--gpus 4).", 'Take 4 GPUs ("GPUs" 4).'),
        ("Take its copy a/b in fewer bits (as MODEL).", "Take its copy a/b in fewer bits."),
        (
            "Take a KV cache in 8 bits (-- --kv-cache-dtype fp8).",
            'Take a KV cache in 8 bits ("Engine arguments" --kv-cache-dtype fp8).',
        ),
        (
            "Take int8 instead of float16 (--compute-type int8).",
            'Take int8 instead of float16 ("Engine arguments" --compute-type int8).',
        ),
        (
            "No profile here can run it; to try it all the same, switch the fit check off (--no-fit-check).",
            'No profile here can run it; to try it all the same, tick "Start it even if it does not seem to fit".',
        ),
        ("Name it: --account NAME.", 'Name it under "Account".'),
        (None, None),
    ],
)
def test_advice_names_fields_of_the_form(hint: str | None, said: str | None) -> None:
    assert in_the_forms_words(hint) == said
