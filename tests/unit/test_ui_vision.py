"""Which models get the attach button: by their config.json and by the engine's arguments."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from launcher.models.resolve import SHIPPED
from launcher.models.vision import images_refused, read_config, takes_images
from launcher.sessions.plan import PlannedModel
from launcher.ui.session import SessionFiles
from tests.engines.plans import vllm_plan


@pytest.mark.parametrize(
    ("config", "takes"),
    [
        ({"architectures": ["LlamaForCausalLM"], "hidden_size": 64}, False),
        ({"architectures": ["LlavaForConditionalGeneration"], "vision_config": {"depth": 2}}, True),
        ({"architectures": ["Qwen2VLForConditionalGeneration"], "vision_start_token_id": 151652}, True),
        ({"architectures": ["Phi3VForCausalLM"], "img_processor": {"name": "clip"}}, True),
        ({"architectures": ["QwenOmni"], "thinker_config": {"vision_config": {"depth": 2}}}, True),
        ({"architectures": ["Qwen2AudioForConditionalGeneration"], "audio_config": {"d": 1}}, False),
        ({"architectures": ["Gemma3ForCausalLM"], "vision_config": None}, False),
        ({}, False),
    ],
)
def test_by_config(config: dict[str, object], takes: bool) -> None:
    assert takes_images(config) is takes


@pytest.mark.parametrize(
    ("args", "refused"),
    [
        ((), False),
        (("--max-model-len", "4096"), False),
        (("--language-model-only",), True),
        (("--no-images",), True),
        (("--limit-mm-per-prompt", '{"image": 0}'), True),
        (('--limit-mm-per-prompt={"image": 0, "video": 1}',), True),
        (("--limit-mm-per-prompt", '{"image": {"count": 0}}'), True),
        (("--limit-mm-per-prompt", '{"image": 4}'), False),
        (("--limit-mm-per-prompt", '{"video": 0}'), False),
        (("--limit-mm-per-prompt", "nonsense"), False),
        (("--limit-mm-per-prompt",), False),
    ],
)
def test_by_arguments(args: tuple[str, ...], refused: bool) -> None:
    assert images_refused(args) is refused


def test_a_session_by_its_snapshot(tmp_path: Path) -> None:
    for name, config, takes in (("seeing", {"vision_config": {"depth": 1}}, True), ("blind", {}, False)):
        root, snapshot = tmp_path / name, tmp_path / f"{name}-snapshot"
        root.mkdir()
        snapshot.mkdir()
        (snapshot / "config.json").write_text(json.dumps(config))
        plan = dataclasses.replace(vllm_plan(), model=PlannedModel(name, name, str(snapshot)))
        (root / "session.json").write_text(plan.to_json())
        assert SessionFiles(root).takes_images is takes


def test_the_shipped_model_only_reads() -> None:
    assert not takes_images(read_config(SHIPPED / "tiny-chat"))


def test_a_config_that_cannot_be_read(tmp_path: Path) -> None:
    assert read_config(tmp_path) == {}
    (tmp_path / "config.json").write_text("[1]")
    assert read_config(tmp_path) == {}
