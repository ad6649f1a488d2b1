"""What the form posts: every field with every hostile text is refused in a sentence or carried as data."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml

from launcher.api import Launcher
from launcher.errors import LauncherError
from launcher.ondemand.plan import plan
from launcher.settings.layers import load
from launcher.settings.schema import FORM_FIELDS, Settings
from tests.app.sites import LLAMA, write_model
from tests.hostile import HOSTILE

_HERE = {"cluster": "test", "hours_max": 24}
SITE = {
    "clusters": {"test": {}, "other": {}},
    "profiles": {
        "small": _HERE | {"gpus": 1, "gpus_max": 4, "accounts": ["physics"], "qos_choices": ["long"]},
        "large": _HERE | {"gpus": 4, "nodes": 1},
        "auto-mate": {"cluster": "other"},
    },
    "allow": {"trust_remote_code": True},
}  # fmt: skip
OTHERS = (
    "cluster",
    "auto_accounts",
    "bc_account",
    "auto_qos",
    "auto_queues",
    "bc_queue",
    "unknown",
    "staged_root",
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "site.yml").write_text(yaml.safe_dump(SITE, sort_keys=False))
    places = {
        "LAUNCHER_PLACES__SESSIONS": str(tmp_path / "sessions"),
        "LAUNCHER_MODELS__CACHE": str(tmp_path / "hub"),
    }
    return load({"LAUNCHER_SITE": str(tmp_path / "site.yml"), "LAUNCHER_CONFIG": os.devnull, **places})


@pytest.mark.parametrize("field", [*FORM_FIELDS, *OTHERS])
def test_hostile_values_are_refused_or_carried_as_data(
    settings: Settings, tmp_path: Path, field: str
) -> None:
    mark = Path("/tmp/launcher-was-here")
    mark.unlink(missing_ok=True)
    refused: list[tuple[str, bool]] = []
    for number, text in enumerate(HOSTILE):
        root = tmp_path / f"staged-{number}"
        posted = {"model": "simulated", "profile": "auto", "cluster": "test", "bc_num_hours": "1"} | {
            field: text
        }
        try:
            submission = plan(Launcher(settings), json.dumps(posted), root)
        except LauncherError as error:
            refused.append((str(error), root.exists()))
            continue
        native = submission["script"]["native"]
        assert not any("injected" in option or "--help" in option or "$(" in option for option in native)
        written = json.loads((root / "session.json").read_text())
        script = (root / "job.sh").read_text().replace(written["id"], "")
        assert len(text.strip()) < 3 or text.strip() not in script
    assert not mark.exists()
    assert all(len(said) < 600 and not left for said, left in refused), refused


NO_FORM = ["", "{", "[]", "1", "null", '"x"', "[" * 100_000, '{"model": {"a": 1}}', '{"model": null}']


@pytest.mark.parametrize("posted", NO_FORM, ids=range(len(NO_FORM)))
def test_what_is_no_form_is_refused(settings: Settings, tmp_path: Path, posted: str) -> None:
    with pytest.raises(LauncherError):
        plan(Launcher(settings), posted, tmp_path / "staged")
    assert not (tmp_path / "staged").exists()


@pytest.mark.parametrize(
    ("posted", "wanted"),
    [
        ({}, ("small", None, None)),
        ({"profile": "auto"}, ("small", None, None)),
        ({"profile": "large"}, ("large", None, None)),
        ({"account": "physics", "qos": "long"}, ("small", "physics", "long")),
        ({"auto_accounts": "physics", "auto_qos": "long"}, ("small", "physics", "long")),
        ({"bc_account": "physics", "bc_queue": "short"}, ("small", "physics", None)),
        ({"cluster": "other"}, ("auto-mate", None, None)),
        ({"cluster": ""}, ("small", None, None)),
    ],
)
def test_what_the_fields_mean(
    settings: Settings, tmp_path: Path, posted: dict[str, str], wanted: tuple[str, str | None, str | None]
) -> None:
    values = {"model": "simulated", "cluster": "test"} | posted
    submission = plan(Launcher(settings), json.dumps(values), tmp_path / "staged")
    found = json.loads((tmp_path / "staged" / "session.json").read_text())["resources"]
    assert (found["profile"], found["account"], found["qos"]) == wanted
    assert ("--partition=short" in submission["script"]["native"]) == ("bc_queue" in posted)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("32768", 32768), ("32k", 32768), ("32K", 32768), ("32 k", 32768), ("32,768", 32768), ("32 768", 32768),
     ("1,000,000", 1_000_000), ("4096.0", 4096)],
)  # fmt: skip
def test_a_context_is_written_as_people_write_it(
    settings: Settings, tmp_path: Path, text: str, tokens: int
) -> None:
    write_model(tmp_path / "m", LLAMA | {"max_position_embeddings": 1_000_000}, 2**20)
    posted = {"model": str(tmp_path / "m"), "cluster": "test", "profile": "small", "account": "physics"}
    plan(Launcher(settings), json.dumps(posted | {"context_length": text}), tmp_path / "staged")
    arguments = json.loads((tmp_path / "staged" / "session.json").read_text())["engine_args"]
    assert arguments[arguments.index("--max-model-len") + 1] == str(tokens)


@pytest.mark.parametrize(
    ("posted", "sentence"),
    [
        ({"context_length": "3,27,68"}, 'Context length must be a number, not "3,27,68".'),
        ({"context_length": "32.5"}, 'Context length must be a whole number, not "32.5".'),
        ({"context_length": "9" * 15}, "The context that was asked for is too large."),
        ({"cluster": "nowhere"}, 'There is no hardware on cluster "nowhere".'),
        ({"cluster": "other", "profile": "small"}, 'Profile "small" is not on cluster "other".'),
        ({"gpus": "two"}, 'GPUs must be a number, not "two".'),
        ({"gpus": "nan"}, 'GPUs must be a whole number, not "nan".'),
        ({"gpus": "inf"}, 'GPUs must be a whole number, not "inf".'),
        ({"context_length": "1e3.5"}, 'Context length must be a number, not "1e3.5".'),
        ({"account": "chem", "profile": "small"}, 'Account "chem" is not among those for profile "small".'),
    ],
)
def test_what_cannot_be_is_said(
    settings: Settings, tmp_path: Path, posted: dict[str, str], sentence: str
) -> None:
    values = {"model": "simulated", "cluster": "test"} | posted
    with pytest.raises(LauncherError) as caught:
        plan(Launcher(settings), json.dumps(values), tmp_path / "staged")
    assert str(caught.value).startswith(sentence)
