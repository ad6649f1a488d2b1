"""Whisper models on disk: whole or not, what they are, which engine takes them, and which copy to take instead."""

from __future__ import annotations

import json
import os
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.errors import LauncherError, ModelError
from launcher.models.index import kept
from launcher.models.inspect.ctranslate2 import binary_in, read_binary
from launcher.models.inspect.facts import Facts, facts
from launcher.models.known import called, converted, known, known_ids
from launcher.models.resolve import resolve
from launcher.models.snapshot import check_snapshot
from launcher.planning import Request, make_plan
from launcher.sessions.plan import Plan
from tests.snapshots import Folders, ctranslate2, repository, variables, weights, whisper

BINARY = "model.bin"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return whisper(tmp_path / "model")


@pytest.fixture
def site(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


def plan(site: Folders, name: str, more: str = "", **wanted: object) -> Plan:
    return make_plan(Request(name, **wanted), site.settings(more), door="shell")  # type: ignore[arg-type]


def trouble(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        check_snapshot(folder, "m", again="AGAIN")
    return str(caught.value).replace(str(folder), "F")


# -- whole or not


@pytest.mark.parametrize("vocabulary", ["vocabulary.json", "vocabulary.txt"])
def test_a_whole_model_is_whole(model: Path, vocabulary: str) -> None:
    (model / "vocabulary.json").rename(model / vocabulary)
    found = check_snapshot(model, "m")
    assert (found.format, found.files, found.tokenizer) == ("ctranslate2", (BINARY,), True)


@pytest.mark.parametrize("part", [1, 8, 100, 5000])
def test_a_model_that_is_broken_off_is_not_whole(model: Path, part: int) -> None:
    size = (model / BINARY).stat().st_size
    os.truncate(model / BINARY, size - part)
    said = trouble(model)
    assert said.startswith('Model "m" is incomplete: F/model.bin ends after ')
    assert said.endswith("AGAIN")
    with pytest.raises(ModelError, match="is incomplete: it ends after"):
        facts(model)


def fifo(folder: Path) -> None:
    (folder / BINARY).unlink()
    os.mkfifo(folder / BINARY)


def dangling(folder: Path) -> None:
    (folder / BINARY).unlink()
    (folder / BINARY).symlink_to("gone")


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no tokenizer": (
        lambda f: (f / "tokenizer.json").unlink(),
        'Model "m": F has no tokenizer.json; faster-whisper would fetch one from the hub. Copy tokenizer.json there '
        "from the model that it was converted from, or download a whole copy (launcher models add "
        "Systran/faster-whisper-…).",
    ),
    "no vocabulary": (
        lambda f: (f / "vocabulary.json").unlink(),
        'Model "m": F has no vocabulary.json. Copy vocabulary.json there from the model that it was converted from, '
        "or download a whole copy (launcher models add Systran/faster-whisper-…).",
    ),
    "128 bands without their description": (
        lambda f: (f / BINARY).write_bytes(ctranslate2(shapes=variables(128))),
        'Model "m": F has no preprocessor_config.json. Copy preprocessor_config.json there from the model that it was '
        "converted from, or download a whole copy (launcher models add Systran/faster-whisper-…).",
    ),
    "a variable of an unknown type": (
        lambda f: (f / BINARY).write_bytes(ctranslate2().replace(struct.pack("<BI", 4, 2), struct.pack("<BI", 99, 2))),
        'Model "m": F/model.bin is damaged: a variable has an unknown type. AGAIN',
    ),
    "more variables than any model": (
        lambda f: (f / BINARY).write_bytes(ctranslate2()[:18] + struct.pack("<II", 3, 2**31)),
        'Model "m": F/model.bin is damaged: it has more variables than any model. AGAIN',
    ),
    "a FIFO": (
        fifo,
        'Model "m": F/model.bin is not a file. AGAIN',
    ),
    "a link to nothing": (
        dangling,
        'Model "m" is incomplete: F/model.bin is a link to gone, which is not there. AGAIN',
    ),
    "no config": (
        lambda f: (f / "config.json").unlink(),
        'Model "m": F has no config.json. Give the folder that holds the weights.',
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_what_a_model_lacks_has_its_sentence(model: Path, case: str) -> None:
    change, sentence = BROKEN[case]
    change(model)
    assert trouble(model) == sentence


def test_a_model_of_128_bands_with_their_description_is_whole(tmp_path: Path) -> None:
    assert check_snapshot(whisper(tmp_path / "large", mels=128), "m").format == "ctranslate2"


def test_a_hostile_header_costs_no_time(model: Path) -> None:
    """Sizes that are no sizes, names without end: an answer at once, and no exception that nobody expects."""
    head = struct.pack("<I", 6) + struct.pack("<H", 12) + b"WhisperSpec\0" + struct.pack("<II", 3, 90_000)
    for body in (
        bytes(200_000),
        struct.pack("<H", 65535) + b"x" * 70_000,
        struct.pack("<H", 2) + b"x\0" + struct.pack("<B", 255) + b"\xff" * 2000,
        struct.pack("<H", 2) + b"x\0" + struct.pack("<B3IBI", 3, *[2**32 - 1] * 3, 0, 7),
        os.urandom(5000),
    ):  # fmt: skip
        (model / BINARY).write_bytes(head + body)
        began = time.monotonic()
        for look in (lambda: check_snapshot(model, "m"), lambda: facts(model)):
            with pytest.raises(ModelError):
                look()
        assert time.monotonic() - began < 5


def test_a_newer_format_is_left_to_the_engine(model: Path) -> None:
    """The environment's CTranslate2 may be newer than what is known here."""
    (model / BINARY).write_bytes(ctranslate2(version=7))
    assert check_snapshot(model, "m").format == "ctranslate2"
    what = facts(model)
    assert (what.engine, what.parameters) == ("whisper", 0)
    assert what.doubt == "Its file is of a newer CTranslate2 than is known here."


# -- what it is


def test_what_a_model_is(model: Path) -> None:
    what = facts(model)
    assert (what.engine, what.task, what.model_type, what.dtype) == (
        "whisper", "transcription", "whisper", "float16",
    )  # fmt: skip
    assert (what.layers, what.hidden, what.intermediate, what.vocabulary) == (2, 64, 256, 96)
    assert what.stored_bytes == 2 * what.parameters + 2  # and one number
    assert Facts.from_dict(json.loads(json.dumps(what.to_dict()))) == what


def test_the_end_of_a_file_is_known(model: Path) -> None:
    binary = binary_in(model)
    assert binary.bytes == binary.here == (model / BINARY).stat().st_size
    assert (binary.mels, binary.layers("encoder"), binary.layers("decoder")) == (80, 2, 2)
    with (model / BINARY).open("rb") as file, pytest.raises(TimeoutError):
        read_binary(file, until=0.0)


def test_the_list_of_models_knows_it(site: Folders) -> None:
    whisper(site.one / "Systran" / "faster-whisper-tiny")
    root = repository(site.two, "Systran/faster-whisper-base")
    snapshot = next((root / "snapshots").iterdir())
    shutil.rmtree(snapshot)
    whisper(snapshot)
    half = whisper(site.two / "half")
    (half / "tokenizer.json").unlink()
    cut = whisper(site.two / "cut")
    os.truncate(cut / BINARY, 1000)
    settings = site.settings(f"places: {{cache: {site.root / 'c'}}}")
    for _ in range(2):  # the second time from what was remembered
        found = {copy.id: copy for copy in kept(settings)}
        for name in ("Systran/faster-whisper-tiny", "Systran/faster-whisper-base"):
            assert found[name].trouble is None
            what = found[name].facts
            assert what is not None
            assert (what.engine, what.task) == ("whisper", "transcription")
        assert found["half"].trouble == "It has no tokenizer.json, which faster-whisper needs."
        assert found["cut"].trouble == "model.bin is incomplete: it ends after 1000 B."


# -- which engine


def test_the_format_chooses_the_engine(site: Folders) -> None:
    whisper(site.one / "Systran" / "faster-whisper-tiny")
    made = plan(site, "Systran/faster-whisper-tiny")
    assert (made.engine, made.engine_args, made.model.served_name) == (
        "whisper", (), "Systran/faster-whisper-tiny",
    )  # fmt: skip
    entry = "catalog: {w: {id: Systran/faster-whisper-tiny, engine_args: [--beam-size, '1']}}"
    made = plan(site, "w", entry, engine_args=("--batch-size", "4"))
    assert (made.engine, made.engine_args) == ("whisper", ("--beam-size", "1", "--batch-size", "4"))


def test_an_engine_that_cannot_read_the_model_is_refused(site: Folders) -> None:
    folder = whisper(site.one / "faster-whisper-tiny")
    with pytest.raises(ModelError) as caught:
        plan(site, "w", f"catalog: {{w: {{path: {folder}, engine: vllm}}}}")
    assert str(caught.value) == (
        f'Model "w": {folder} is a Whisper model in the format of CTranslate2 (faster-whisper), which vLLM cannot '
        f"load. In {site.root}/site.yml, line 2, write engine: whisper."
    )
    theirs = transformers(site.one / "openai" / "whisper-large-v3")
    with pytest.raises(ModelError) as caught:
        plan(site, "w", "catalog: {w: {id: openai/whisper-large-v3, engine: whisper}}")
    assert str(caught.value) == (
        f'Model "w": {theirs} is not in the format of CTranslate2, which the engine whisper reads. In '
        f"{site.root}/site.yml, line 2, name a copy that is such as Systran/faster-whisper-large-v3, or write "
        "engine: vllm."
    )


def transformers(folder: Path) -> Path:
    folder.mkdir(parents=True)
    config = {"model_type": "whisper", "architectures": ["WhisperForConditionalGeneration"], "d_model": 64}
    config |= {"decoder_layers": 2, "decoder_attention_heads": 2, "vocab_size": 96, "decoder_ffn_dim": 256}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    weights(folder / "model.safetensors")
    return folder


def test_the_other_format_names_the_copy_to_take(site: Folders) -> None:
    transformers(site.one / "openai" / "whisper-large-v3")
    transformers(site.one / "me" / "my-whisper")
    assert (
        resolve("openai/whisper-large-v3", site.settings()).engine == "vllm"
    )  # it is whole, only of another kind

    def said(name: str, more: str = "") -> str:
        with pytest.raises(ModelError) as caught:
            plan(site, name, more)
        return str(caught.value)

    why = "is a Whisper model in the format of Transformers; sessions serve Whisper from copies in CTranslate2's."
    assert said("openai/whisper-large-v3") == (
        f'Model "openai/whisper-large-v3" {why} Take Systran/faster-whisper-large-v3; to download it: launcher models '
        "add Systran/faster-whisper-large-v3"
    )
    assert said("openai/whisper-large-v3", "allow: {downloads: false}").endswith(
        "Take Systran/faster-whisper-large-v3, or ask the site for it."
    )
    assert "ct2-transformers-converter --copy_files" in said("me/my-whisper")


def test_a_site_may_let_vllm_serve_whisper(site: Folders) -> None:
    transformers(site.one / "openai" / "whisper-large-v3")
    held = "environments: {v: {kind: module, modules: [vllm], engines: [vllm]}}"
    entry = "catalog: {w: {id: openai/whisper-large-v3, engine: vllm}}"
    assert plan(site, "w", f"{held}\n{entry}").engine == "vllm"


# -- names


def test_the_names_of_faster_whisper_mean_their_copies(site: Folders) -> None:
    with pytest.raises(ModelError) as caught:
        resolve("large-v3", site.settings())
    assert str(caught.value) == (
        'Model "large-v3" is Systran/faster-whisper-large-v3, which is not on this disk. To download it: launcher '
        "models add Systran/faster-whisper-large-v3"
    )
    whisper(site.one / "deepdml" / "faster-whisper-large-v3-turbo-ct2", mels=128)
    for name in ("turbo", "large-v3-turbo", "Turbo"):
        found = resolve(name, site.settings())
        assert (found.id, found.engine) == ("deepdml/faster-whisper-large-v3-turbo-ct2", "whisper")
        assert found.found.endswith(f", which faster-whisper calls {name}")
    whisper(site.two / "turbo")  # a folder of that name goes before
    assert resolve("turbo", site.settings()).id == "turbo"


def test_the_copies_that_are_known_are_faster_whispers() -> None:
    """Names and repositories are those of the installed faster-whisper, where it has one."""
    utils = pytest.importorskip("faster_whisper.utils")
    theirs = {alias: model for alias, model in utils._MODELS.items() if alias != "large-v1"}
    found = {alias: copy.id for alias in theirs if (copy := called(alias)) is not None}
    assert set(found) == set(theirs)
    assert {alias for alias in theirs if found[alias] != theirs[alias]} == {"turbo", "large-v3-turbo"}


def test_each_copy_says_what_it_was_made_of() -> None:
    copies = [
        about for name in known_ids() if (about := known(name)) is not None and about.engine == "whisper"
    ]
    assert len(copies) >= 15
    for copy in copies:
        assert copy.of is not None
        assert converted(copy.of) == copy
        assert converted(copy.of.upper()) == copy
        assert copy.task == "transcription"
    assert converted("whisper-large-v3") == known("Systran/faster-whisper-large-v3")
    assert converted("openai/whisper-huge") is None


@pytest.mark.parametrize(
    "name", ["a b", "$(id)", "-x", "large-v3\n", "large-v3\0", "<%= 1 %>", "é", "x" * 5000]
)
def test_hostile_names_are_refused_as_ever(site: Folders, name: str) -> None:
    with pytest.raises(LauncherError):
        resolve(name, site.settings())
