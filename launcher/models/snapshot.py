"""One model's files on disk: are they all there, whole, and of a kind that cannot run code.

Reads file names, the index and the headers of weight files; never the weights themselves. What a folder holds instead
of a model that an engine here can load is `launcher.models.others`'s business.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import ModelError
from launcher.models import others
from launcher.models.disk import NotAFileError, cannot_be_read, open_file, part, read_object, size
from launcher.models.inspect import ctranslate2
from launcher.models.inspect.header import file_bytes, read_header

_CONSOLIDATED = re.compile(r"consolidated.*\.safetensors")
# model-00001-of-00004.safetensors; six digits where there are very many.
SHARD = re.compile(r"(.+)-(\d{5,6})-of-(\d{5,6})(\.\w+)")
_SHARDS_MAX = 10_000
_TOKENIZER = re.compile(
    r"(tokenizer\.|vocab|tokenization_|tekken|spiece|sentencepiece).*|.*(\.tiktoken|\.bpe\.model|\.spm)"
)
# As vllm/model_executor/model_loader/weight_utils.py, filter_files_not_needed_for_inference.
_TRAINING = ("training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "scaler.pt")
DOWNLOAD_AGAIN = "Download the model again, or ask whoever keeps the folder."
_LFS_POINTER = b"version https://git-lfs.github.com/"
CTRANSLATE2 = "ctranslate2"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A model's folder that is whole: the `files` an engine would load, and their `format`.

    The format is `safetensors`, `mistral` (Mistral's own `consolidated*.safetensors`), `pickle` or `ctranslate2` (a
    Whisper model for faster-whisper).
    """

    format: str
    files: tuple[str, ...]
    tokenizer: bool


def check_snapshot(
    folder: Path, model: str, *, pickle_weights: bool = False, again: str = DOWNLOAD_AGAIN
) -> Snapshot:
    """What `folder` holds; raises ModelError when that is not a complete model in a format that is served here.

    `again` is the hint for a copy that is not whole. A file that is shorter than its own header says is a broken copy.
    """
    names = _names(folder, model, again)
    check = _Check(folder, model, names, again)
    # vLLM takes Mistral's own files where there are any (model_loader/default_loader.py, load_format auto).
    consolidated = {name for name in names if _CONSOLIDATED.fullmatch(name)}
    if "config.json" not in names and not (consolidated and "params.json" in names):
        raise others.without_config(folder, model, names)
    config = read_object(folder / ("config.json" if "config.json" in names else "params.json"), model, again)
    if consolidated:
        kind, files = "mistral", check.files("consolidated.safetensors.index.json", consolidated)
    else:
        # An adapter's own weights are no model.
        weights = {n for n in names if n.endswith(".safetensors") and not n.startswith("adapter_model")}
        kind, files = "safetensors", check.files("model.safetensors.index.json", weights)
    if not files:
        if ctranslate2.FILE in names and check.is_whisper():
            return Snapshot(CTRANSLATE2, (ctranslate2.FILE,), True)
        pickles = {n for n in names if n.endswith((".bin", ".pt", ".pth")) and not n.endswith(_TRAINING)}
        if (trouble := others.instead_of_weights(folder, model, names, config)) is not None:
            raise trouble
        if not pickles:
            raise check.incomplete(
                f"{folder} has no weights yet", f"{folder} has a config.json but no weights (*.safetensors)."
            )
        if not pickle_weights:
            raise others.ForeignError(
                f'Model "{model}": {folder} has only pickle weights, which can run code when they are loaded.',
                "Use a safetensors copy of the model.",
            )
        kind, files = "pickle", check.files("pytorch_model.bin.index.json", pickles)
    for name in files:
        check.weights(name, headers=kind != "pickle")
    return Snapshot(kind, tuple(files), any(_TOKENIZER.fullmatch(name) for name in names))


def no_tokenizer(folder: Path, model: str) -> ModelError:
    """The error for a whole model without the files that turn text into tokens."""
    return ModelError(
        f'Model "{model}": {folder} has no tokenizer (tokenizer.json, tokenizer.model or the like).',
        "Download the whole model, or name a tokenizer with the engine argument --tokenizer.",
    )


@dataclass(frozen=True, slots=True)
class _Check:
    folder: Path
    model: str
    names: Collection[str]
    again: str

    def files(self, index: str, there: Collection[str]) -> list[str]:
        """The weight files that there should be: the index's, else those there and the rest of their numbers."""
        if index not in self.names:
            return sorted({*there, *(name for found in there for name in _with_its_other_shards(found))})
        path = self.folder / index
        weight_map = read_object(path, self.model, self.again).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(n, str) for n in weight_map.values()):
            raise ModelError(f'Model "{self.model}": {path} has no weight_map.', self.again)
        names = sorted(set(weight_map.values()))
        if any("/" in name or "\0" in name or name in ("", ".", "..") for name in names):
            raise ModelError(
                f'Model "{self.model}": {path} names files outside its folder.', "Do not use this copy."
            )
        return names

    def weights(self, name: str, *, headers: bool) -> None:
        path = self.folder / name
        try:
            with open_file(path) as file:
                here = os.fstat(file.fileno()).st_size
                if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
                    raise ModelError(
                        f'Model "{self.model}": {path} is a Git LFS pointer, not the weights.',
                        f"Run git lfs pull in {self.folder}, or download the model again.",
                    )
                if not headers:
                    return
                file.seek(0)
                header, begin = read_header(file)
            whole = file_bytes(header, begin)
        except FileNotFoundError:
            raise self.missing(path) from None
        except NotAFileError:
            raise ModelError(f'Model "{self.model}": {path} is not a file.', self.again) from None
        except OSError as error:
            raise cannot_be_read(path, self.model, error) from error
        except ValueError as error:
            raise ModelError(
                f'Model "{self.model}": {path} is not a safetensors file.', self.again
            ) from error
        if here < whole:
            raise self.incomplete(f"{path} has {part(here, whole)}")

    def is_whisper(self) -> bool:
        """Whether model.bin is a Whisper model of CTranslate2; raises ModelError for one that is not whole."""
        path = self.folder / ctranslate2.FILE
        try:
            if ctranslate2.spec_in(self.folder) != ctranslate2.WHISPER:
                return False
            binary = ctranslate2.binary_in(self.folder)
        except FileNotFoundError:
            raise self.missing(path) from None
        except NotAFileError:
            raise ModelError(f'Model "{self.model}": {path} is not a file.', self.again) from None
        except OSError as error:
            raise cannot_be_read(path, self.model, error) from error
        except ValueError as error:
            raise ModelError(f'Model "{self.model}": {path} is damaged: {error}.', self.again) from error
        if binary.here < binary.bytes:
            raise self.incomplete(f"{path} ends after {size(binary.here)}")
        if (lacks := ctranslate2.missing_beside(self.names, binary.mels)) is not None:
            raise others.no_file_beside(self.folder, self.model, lacks)
        return True

    def missing(self, path: Path) -> ModelError:
        try:
            return self.incomplete(f"{path} is a link to {os.readlink(path)}, which is not there")
        except OSError:
            return self.incomplete(f"{path} is missing")

    def incomplete(self, what: str, otherwise: str | None = None) -> ModelError:
        """The error for a copy that is not whole; `otherwise` is said where no download was broken off."""
        unfinished = others.unfinished(self.folder)
        if unfinished is None:
            sentence = f": {otherwise}" if otherwise else f" is incomplete: {what}."
            return ModelError(f'Model "{self.model}"{sentence}', self.again)
        return ModelError(
            f'Model "{self.model}" is incomplete: {what}, and a download is unfinished ({size(unfinished)} so far).',
            f"Wait if it is still running. {self.again}",
        )


def _names(folder: Path, model: str, again: str) -> set[str]:
    try:
        with os.scandir(folder) as listing:
            return {entry.name for entry in listing}
    except FileNotFoundError:
        if folder.name == "snapshots":  # a repository in the hub's layout that has none
            raise _Check(folder, model, (), again).incomplete(f"{folder.parent} holds no snapshot") from None
        raise ModelError(f"There is no folder {folder}.", "Check the path of the model.") from None
    except OSError as error:
        raise cannot_be_read(folder, model, error) from error


def _with_its_other_shards(name: str) -> list[str]:
    # model-00001-of-00004.safetensors tells the names of the other three, also where the index is missing.
    match = SHARD.fullmatch(name)
    if match is None or not 0 < int(match[3]) <= _SHARDS_MAX:
        return []
    width = len(match[2])
    return [f"{match[1]}-{n:0{width}}-of-{match[3]}{match[4]}" for n in range(1, int(match[3]) + 1)]
