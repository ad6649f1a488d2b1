"""Our options of `vllm serve` exist in the installed vLLM, and its lists of refusals miss none."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from launcher.engines import vllm
from launcher.engines.vllm_arguments import CODE, OWN
from launcher.engines.vllm_options import LONE, ONE, SEVERAL, SWITCHES, takes
from launcher.errors import RequestError
from launcher.models.fit.options import near_miss
from tests.engines.plans import vllm_plan

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]

# Looks like an address, a key, a log or foreign code, and is none.
REVIEWED = {
    "--allowed-local-media-path",  # files that whoever holds the session's key may name
    "--allowed-media-domains",
    "--attention-backend",
    "--config-format",
    "--disable-log-stats",
    "--disable-access-log-for-endpoints",
    "--aggregate-engine-logging",
    "--collect-detailed-traces",  # does nothing without --otlp-traces-endpoint
    "--enable-logging-iteration-details",
    "--enable-trace-replay",
    "--enable-log-deltas",  # without --enable-log-outputs it does nothing
    "--hf-config-path",
    "--ignore-patterns",
    "--logprobs-mode",
    "--max-logprobs",
    "--reasoning-parser",
    "--tool-call-parser",
    "--trust-request-chat-template",  # a sandboxed template from whoever holds the key
    "--trust-request-mm-kwargs",
    "--max-lora-cls-labels",
}
SUSPICIOUS = re.compile(
    r"host|port$|-key|ssl|uds|cors|origin|middleware|plugin|-cls|class|trust|\blog|-log|token$|trace"
)


@pytest.fixture(scope="module")
def options(vllm_said: dict[str, Any]) -> frozenset[str]:
    return frozenset(re.findall(r"(?<![\w-])--?[a-z][a-z0-9-]*", vllm_said["options"]))


def test_the_options_of_our_command_exist(options: frozenset[str]) -> None:
    argv = vllm.command(vllm_plan(), Path("/run/s/engine.sock"), Path("/cache")).argv
    ours = {word.partition("=")[0] for word in argv[3:] if word.startswith("--")}
    assert ours <= options


def test_the_options_of_our_lists_exist(options: frozenset[str]) -> None:
    # --omni is looked for in sys.argv before the parser (vllm/entrypoints/cli/main.py).
    assert {*OWN, *CODE} - {"--omni"} <= options


def test_every_suspicious_option_is_refused_or_reviewed(options: frozenset[str]) -> None:
    passed = set()
    for option in options:
        if not option.startswith("--") or option.startswith("--no-") or not SUSPICIOUS.search(option):
            continue
        try:
            vllm.check_args((option, "1"), allow_remote_code=False)
            passed.add(option)
        except RequestError:
            continue
    assert passed - REVIEWED == set()


def test_which_options_take_values_is_known_of_each(vllm_said: dict[str, Any]) -> None:
    """Blackfish 1: options of the engine are told from a slip of the hand, and from the model behind them."""
    found: dict[str, set[str]] = {"none": set(), "one": set(), "several": set()}
    for spec in re.findall(r"^  (-[^ ].*?)(?:  .*)?$", vllm_said["options"], re.MULTILINE):
        for name, value in re.findall(r"(?:^|, )(--?[A-Za-z][A-Za-z0-9_-]*)(?: ([^,-].*?))?(?=, -|$)", spec):
            found["several" if "..." in value and "[" in value else "one" if value else "none"].add(name)
    assert len(found["one"]) > 100
    wrong = [(name, takes(name)) for kind, names in found.items() for name in names if takes(name) != kind]
    assert wrong == []
    assert {*SWITCHES, *LONE, *ONE, *SEVERAL} <= {*found["none"], *found["one"], *found["several"]}


def test_no_option_of_vllm_is_taken_for_a_slip_of_the_hand(options: frozenset[str]) -> None:
    assert not [option for option in options if near_miss(option) is not None]
    assert near_miss("--max-modle-len") == "--max-model-len"


def test_every_spelling_of_our_own_options_is_refused(options: frozenset[str]) -> None:
    for option in OWN:
        for spelled in (option, option.replace("-", "_").replace("__", "--", 1), f"{option}=1", option[:-1]):
            if spelled in options and spelled not in OWN:
                continue  # the beginning of ours is another option's whole name
            with pytest.raises(RequestError):
                vllm.check_args((spelled, "1"), allow_remote_code=True)
