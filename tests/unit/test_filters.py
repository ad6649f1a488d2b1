"""Which sessions `status --filter` and `cleanup --filter` mean."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest

from launcher.api.filters import parse
from launcher.errors import RequestError
from launcher.models.kinds import family, model_type
from launcher.planning import Request, make_plan
from launcher.sessions.plan import Plan, PlannedModel
from launcher.sessions.status import FAILED, LAUNCHING, PENDING, READY, SHUTDOWN, UNHEALTHY, Status
from launcher.settings.layers import load
from tests.hostile import HOSTILE


@pytest.fixture(scope="module")
def plan() -> Plan:
    made = make_plan(Request("simulated", name="mine"), load({}), door="shell")
    return dataclasses.replace(made, model=PlannedModel("org/Qwen2.5-7B-Instruct", "org/Qwen2.5-7B-Instruct"))


def status(plan: Plan, state: str, reason: str | None = None) -> Status:
    return Status(plan.id, state, 1.0, "So it is.", reason=reason, job_id="4711")


@pytest.mark.parametrize(
    ("text", "state", "reason", "fits"),
    [
        ("state=READY", READY, None, True),
        ("state=ready", READY, None, True),
        ("state=READY", FAILED, None, False),
        ("state=READY,state=FAILED", FAILED, None, True),
        ("model=org/Qwen2.5-7B-Instruct", READY, None, True),
        ("model=qwen2.5-*", READY, None, True),
        ("model=llama*", READY, None, False),
        ("state=READY,model=llama*", READY, None, False),
        ("name=mine,job=4711", READY, None, True),
        ("job=471", READY, None, False),
        ("engine=simulated, profile=local", READY, None, True),
        ("reason=idle", SHUTDOWN, "idle", True),
        (" , ", READY, None, True),
        ("partition=gpu", READY, None, False),
    ],
)
def test_a_filter_means_sessions_with_these_values(
    plan: Plan, text: str, state: str, reason: str | None, fits: bool
) -> None:
    """Blackfish 2: `ls --filters` and `rm --filters`."""
    assert parse(text).fits(plan, status(plan, state, reason)) is fits


@pytest.mark.parametrize(
    ("text", "state", "reason"),
    [
        ("status=SUBMITTED", PENDING, None),
        ("status=PENDING", PENDING, "resources"),
        ("status=STARTING", LAUNCHING, None),
        ("status=HEALTHY", READY, None),
        ("status=UNHEALTHY", UNHEALTHY, "no-answer"),
        ("status=STOPPED", SHUTDOWN, "user"),
        ("status=TIMEOUT", SHUTDOWN, "time-limit"),
        ("status=FAILED", FAILED, "engine-exit"),
    ],
)
def test_blackfishs_states_and_keys_are_understood(
    plan: Plan, text: str, state: str, reason: str | None
) -> None:
    """Blackfish 3: each of its eight states has one of ours, and means no other."""
    assert parse(text).fits(plan, status(plan, state, reason))
    others = {PENDING, LAUNCHING, READY, UNHEALTHY, SHUTDOWN, FAILED} - {state}
    assert not [other for other in others if parse(text).fits(plan, status(plan, other))]


def test_blackfishs_image_is_an_engine(plan: Plan) -> None:
    whisper = dataclasses.replace(plan, engine="whisper")
    assert parse("image=speech_recognition").fits(whisper, status(plan, READY))
    assert not parse("image=text_generation").fits(whisper, status(plan, READY))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("stat=READY", 'Sessions cannot be chosen by "stat". Did you mean state?'),
        ("state=REDY", 'There is no state "REDY". The states are: PENDING, LAUNCHING, READY'),
        ("state", '"state" is no filter. Write state=VALUE.'),
        ("model=", '"model=" is no filter. Write model=VALUE.'),
        (f"id=a{',id=a' * 1000},model=mine", "A filter has at most 4000 characters."),
    ],
)
def test_what_is_no_filter_is_refused_in_a_sentence(text: str, says: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse(text)
    assert str(caught.value).startswith(says)


@pytest.mark.parametrize("text", [text for text in HOSTILE if text.strip()])
def test_hostile_words_choose_nothing_or_are_refused(plan: Plan, text: str) -> None:
    with pytest.raises(RequestError):
        parse(text)
    value = text.replace(",", "")
    with contextlib.suppress(RequestError):
        assert not parse(f"model={value}").fits(plan, status(plan, READY))


@pytest.mark.parametrize(
    ("model", "parts"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", ("Qwen2.5", "7B-Instruct")),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", ("Meta-Llama-3.1", "8B-Instruct")),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", ("Mixtral", "8x7B-Instruct-v0.1")),
        ("google/gemma-2-9b-it", ("gemma-2", "9b-it")),
        ("Qwen/Qwen2.5-VL-7B-Instruct", ("Qwen2.5-VL", "7B-Instruct")),
        ("BAAI/bge-base-en-v1.5", ("bge", "base-en-v1.5")),
        ("openai/whisper-large-v3", ("whisper", "large-v3")),
        ("deepseek-ai/DeepSeek-V3-0324", ("DeepSeek-V3-0324", None)),
        ("tiny-chat", ("tiny-chat", None)),
        ("x" * 5000, ("x" * 5000, None)),
        ("", ("", None)),
    ],
)
def test_a_models_family_is_its_name_up_to_the_size(model: str, parts: tuple[str, str | None]) -> None:
    assert family(model) == parts


def test_the_types_of_models_have_vec_infs_names() -> None:
    words = [model_type(task) for task in ("chat", "vision", "embedding", "classification", "transcription")]
    assert words == ["LLM", "VLM", "Text_Embedding", "Reward_Modeling", "Audio"]
    assert model_type(None) == "Unknown"
