"""Whisper models in the form: where they stand, which hardware and fields they have, and that a launch takes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from launcher.ondemand.plain import plain
from tests.app import sites
from tests.unit.test_form_untouched import Site, model_options

SPEECH = "Systran/faster-whisper-large-v3"
ONE = {"cluster": "test", "gpus": 1, "gpu_type": "a100", "gpu_memory_gb": 80}
FOUR = ONE | {"gpus": 4}
CPU = {"cluster": "test", "cpus": 8, "memory_gb": 32}
UNUSED = "gpus context_length trust_remote_code"


def _site(folder: Path, profiles: dict[str, Any], **settings: Any) -> Site:
    site = Site(folder, sites.MINIMAL | {"profiles": profiles} | settings)
    sites.write_whisper(folder / "models" / SPEECH, 3 * sites.GB)
    return site


def _without_profiles(site: Site, model: str) -> set[str]:
    data: dict[str, Any] = model_options(site)[model][2]
    start = "data-option-for-profile-"
    return {key.removeprefix(start) for key in data if key.startswith(start)}


def test_it_stands_under_speech_to_text_and_says_what_it_has_no_use_for(tmp_path: Path) -> None:
    site = _site(tmp_path, {"one": ONE, "cpu": CPU})
    site.add("org/chat")
    field = site.form()["attributes"]["model"]
    groups = {label: [option[1] for option in options] for label, options in field["options"]}
    assert groups["Speech to text"] == [SPEECH]
    assert "*Speech to text* write down what is said" in field["help"]
    options = model_options(site)
    assert options[SPEECH][0] == f"{SPEECH} (3.0 GB)"
    assert options[SPEECH][2]["data-without"] == UNUSED
    assert "data-without" not in options["org/chat"][2]
    assert field["value"] == "org/chat"
    assert site.launch(model=SPEECH)["engine"] == "whisper"


def test_one_that_is_not_here_stands_there_too(tmp_path: Path) -> None:
    catalog = {
        "small": {"id": "Systran/faster-whisper-small"},
        "own": {"id": "lab/ours", "engine": "whisper"},
    }
    site = Site(tmp_path, sites.MINIMAL | {"catalog": catalog})
    field = site.form()["attributes"]["model"]
    groups = {label: [option[0] for option in options] for label, options in field["options"]}
    assert groups["Speech to text"] == [
        "Systran/faster-whisper-small (not on this disk)",
        "lab/ours (not on this disk)",
    ]
    assert all(model_options(site)[name][2]["data-without"] == UNUSED for name in catalog)
    assert field["value"] not in catalog


def test_a_form_without_any_is_as_before(tmp_path: Path) -> None:
    site = Site(tmp_path, sites.MINIMAL)
    site.add("org/chat")
    assert "recordings" not in site.form()["attributes"]["model"]["help"]


def test_hardware_of_many_gpus_is_for_others_where_there_is_less(tmp_path: Path) -> None:
    clusters: dict[str, Any] = {"test": {}, "large": {}}
    range_ = ONE | {"gpus_max": 4}
    profiles = {"one": ONE, "four": FOUR, "range": range_, "cpu": CPU, "only": FOUR | {"cluster": "large"}}
    site = _site(tmp_path, profiles, clusters=clusters)
    assert _without_profiles(site, SPEECH) == {"four"}
    assert not any("-cluster-" in key for key in model_options(site)[SPEECH][2])
    assert site.launch(model=SPEECH, cluster="large")["resources"]["profile"] == "only"
    # Without the directives somebody may choose it all the same.
    assert site.launch(model=SPEECH, profile="four")["resources"]["gpus"] == 4


def test_of_several_gpus_it_takes_one(tmp_path: Path) -> None:
    site = _site(tmp_path, {"range": ONE | {"gpus_max": 4}})
    assert site.launch(model=SPEECH)["resources"]["gpus"] == 1


@pytest.mark.parametrize(
    "posted",
    [{"gpus": "3"}, {"gpus": "no number"}, {"context_length": "32k"}, {"context_length": "-5"}, {"context_length": "x"},
     {"trust_remote_code": "1"}],
)  # fmt: skip
def test_what_the_form_hides_for_it_is_left_out(tmp_path: Path, posted: dict[str, str]) -> None:
    """A hidden field is posted all the same; what somebody typed for another model is no reason to refuse this one."""
    site = _site(tmp_path, {"range": ONE | {"gpus_max": 4}})
    made = site.launch(model=SPEECH, **posted)
    assert (made["engine"], made["resources"]["gpus"], made["engine_args"]) == ("whisper", 1, [])
    assert site.launch(custom_model=SPEECH, **posted)["engine"] == "whisper"


def test_for_a_chat_model_they_still_count(tmp_path: Path) -> None:
    site = _site(tmp_path, {"range": ONE | {"gpus_max": 4}})
    site.add("org/chat")
    assert "must be a number" in site.refusal(model="org/chat", context_length="x")
    assert "must be a number" in site.refusal(model=SPEECH, custom_model="org/chat", gpus="no number")
    assert site.launch(model="org/chat", gpus="3")["resources"]["gpus"] == 3


def test_what_it_does_use_is_checked(tmp_path: Path) -> None:
    site = _site(tmp_path, {"one": ONE})
    example = site.form()["attributes"]["engine_args"]["help"].rpartition("`--")[2].removesuffix("`.")
    assert site.launch(model=SPEECH, engine_args=f"--{example}")["engine_args"] == ["--beam-size", "1"]
    assert "--max-num-seqs" in site.refusal(model=SPEECH, engine_args="--max-num-seqs 4")


def test_one_that_is_too_large_is_marked_and_refused_in_the_forms_words(tmp_path: Path) -> None:
    site = _site(tmp_path, {"tiny": CPU | {"memory_gb": 1}})
    assert model_options(site)[SPEECH][0] == f"{SPEECH} (3.0 GB, too large here)"
    said = site.refusal(model=SPEECH)
    assert 'profile "tiny" has 1.0 GB' in said
    assert "--no-fit-check" not in said
    assert site.launch(model=SPEECH, try_anyway="1")["engine"] == "whisper"
    site.settings = sites.MINIMAL | {"profiles": {"tiny": CPU | {"memory_gb": 1}, "cpu": CPU}}
    assert _without_profiles(site, SPEECH) == {"tiny"}
    assert site.launch(model=SPEECH)["resources"]["profile"] == "cpu"


def test_one_in_transformers_format_is_offered_only_where_the_site_has_vllm_run_it(tmp_path: Path) -> None:
    """A launch refuses it, and names the copy to take."""
    whisper = sites.BERT | {
        "architectures": ["WhisperForConditionalGeneration"], "model_type": "whisper", "d_model": 384,
        "encoder_layers": 4, "decoder_layers": 4, "encoder_attention_heads": 6, "decoder_attention_heads": 6,
        "vocab_size": 51865, "max_target_positions": 448, "max_source_positions": 1500,
    }  # fmt: skip
    catalog = {"slow": {"id": "openai/whisper-tiny"}, "by-vllm": {"id": "org/own", "engine": "vllm"}}
    site = Site(tmp_path, sites.MINIMAL | {"catalog": catalog})
    for name in ("openai/whisper-tiny", "openai/whisper-base", "org/own"):
        sites.write_model(tmp_path / "models" / name, whisper, 150 * 2**20)
    options = model_options(site)
    assert "openai/whisper-base" not in options
    assert options["slow"][0].endswith(", in a format for another engine)")
    assert "format" not in options["by-vllm"][0]
    assert site.form()["attributes"]["model"]["value"] not in ("slow",)
    assert "CTranslate2" in site.refusal(model="slow")


def test_where_its_engine_is_not_installed_it_says_so_until_it_is(tmp_path: Path) -> None:
    own = tmp_path / "venv"
    (own / "bin").mkdir(parents=True)
    (own / "bin" / "python3").symlink_to("/usr/bin/python3")
    (own / "pyvenv.cfg").write_text("include-system-site-packages = false\n")
    packages = own / "lib" / "python3.11" / "site-packages"
    packages.mkdir(parents=True)
    environments = {"ears": {"kind": "venv", "path": str(own), "engines": ["whisper"]}}
    site = _site(tmp_path, {"one": ONE | {"environment": "ears"}}, environments=environments)
    site.add("org/chat")
    options = model_options(site)
    assert options[SPEECH][0] == f"{SPEECH} (3.0 GB, not installed here)"
    assert "tiny-whisper" not in options  # a first try that cannot be had is of no use
    assert "has no faster-whisper" in site.refusal(model=SPEECH)
    for name in ("faster_whisper", "flask", "gunicorn"):
        (packages / name).mkdir()
    assert model_options(site)[SPEECH][0] == f"{SPEECH} (3.0 GB)"
    assert site.launch(model=SPEECH)["environment"]["name"] == "ears"


def test_hostile_titles_and_folders_are_only_text(tmp_path: Path) -> None:
    texts = [text for text in sites.TEXTS if "/" not in text and len(text) < 200]
    catalog = {}
    for number, text in enumerate(texts):
        folder = sites.write_whisper(tmp_path / "odd" / f"{number} {text}", 2**20, hidden=8)
        catalog[f"odd{number}"] = {"title": text, "path": str(folder), "engine": "whisper"}
        sites.write_whisper(tmp_path / "models" / "org" / text, 2**20, hidden=8)
    site = Site(tmp_path, sites.MINIMAL | {"catalog": catalog})
    options = model_options(site)
    assert not any(value.startswith("org/") and not value.isascii() for value in options)
    assert not any(sign in value for value in options for sign in "<>\"'$`; \n\\")
    for number, text in enumerate(texts):
        assert options[f"odd{number}"][0].startswith(plain(text))
        made = site.launch(model=f"odd{number}")
        assert made["model"]["snapshot"] == str(tmp_path / "odd" / f"{number} {text}")
