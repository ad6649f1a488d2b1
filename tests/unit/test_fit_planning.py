"""Planning with the fit: what it chooses, what it refuses and how it says so, through the same call as every door."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from launcher.errors import ModelError, RequestError
from launcher.planning import Request, make_plan, within_limits
from launcher.sessions.plan import Plan
from launcher.settings.layers import load
from launcher.settings.schema import Settings
from tests.unit.fit_models import snapshot

SITE = """
clusters: {{della: {{}}}}
models: {{folders: [{models}]}}
profiles:
  small: {{cluster: della, gpus: 1, gpu_type: l4}}
  large: {{cluster: della, gpus: 1, gpus_max: 8, gpu_type: a100, gpu_memory_gb: 80, memory_gb: 500}}
  cpu: {{cluster: della, memory_gb: 900}}
  old: {{cluster: della, gpus: 8, gpu_type: v100, gpu_memory_gb: 32}}
  vague: {{cluster: della, gpus: 2}}
environments: {{vllm: {{kind: module, modules: [vllm]}}}}
{more}
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name, where in (
        ("llama-8b", "org/llama-8b"),
        ("llama-70b", "org/llama-70b"),
        ("llama-70b-awq", "other/llama-70b-AWQ"),
        ("qwen2.5-0.5b", "Qwen/Qwen2.5-0.5B-Instruct"),
        ("llama-8b", "meta-llama/Llama-3.1-8B-Instruct"),
    ):
        snapshot(folder / where, name)
    return folder


def settings(models: Path, tmp_path: Path, more: str = "", site: str = SITE) -> Settings:
    file = tmp_path / "site.yml"
    file.write_text(site.format(models=models, more=more))
    return load({"LAUNCHER_SITE": str(file), "XDG_CONFIG_HOME": str(tmp_path), "HOME": str(tmp_path)})


def plan(found: Settings, model: str, **wanted: Any) -> Plan:
    return make_plan(Request(model, **wanted), found, door="shell")


def test_a_small_model_takes_the_first_profile(models: Path, tmp_path: Path) -> None:
    made = plan(settings(models, tmp_path), "Qwen/Qwen2.5-0.5B-Instruct")
    assert (made.resources.profile, made.resources.gpus) == ("small", 1)
    assert made.origins["profile"] == "the first profile"
    assert "--max-model-len" not in made.engine_args


def test_a_large_model_takes_the_next_that_holds_it_with_the_gpus_it_needs(
    models: Path, tmp_path: Path
) -> None:
    made = plan(settings(models, tmp_path), "org/llama-70b")
    assert (made.resources.profile, made.resources.gpus) == ("large", 2)
    assert made.origins["profile"] == made.origins["gpus"] == "chosen to fit"
    size = made.engine_args.index("--tensor-parallel-size")
    assert made.engine_args[size + 1] == "2"
    length = made.engine_args.index("--max-model-len")
    assert 16384 <= int(made.engine_args[length + 1]) < 131072
    assert made.origins["--max-model-len"] == "chosen to fit"


def test_a_longer_context_takes_more_gpus(models: Path, tmp_path: Path) -> None:
    made = plan(settings(models, tmp_path), "org/llama-70b", max_model_len=131072)
    assert (made.resources.profile, made.resources.gpus) == ("large", 3)
    assert made.engine_args.count("--max-model-len") == 1
    whole = plan(settings(models, tmp_path), "org/llama-70b", engine_args=("--max_model_len=128K",))
    assert whole.resources.gpus == 3


def test_the_users_own_choice_is_kept(models: Path, tmp_path: Path) -> None:
    found = settings(models, tmp_path)
    made = plan(found, "org/llama-8b", profile="large", gpus=4, engine_args=("-tp", "2"))
    assert made.resources.gpus == 4
    assert made.origins["gpus"] == "request"
    assert "--tensor-parallel-size" not in made.engine_args
    assert plan(found, "org/llama-8b", profile="vague").resources.gpus == 2


def test_what_cannot_fit_is_refused_with_the_arithmetic_and_what_works(models: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        plan(settings(models, tmp_path), "org/llama-70b", profile="small")
    assert caught.value.message == (
        'Model "org/llama-70b" needs about 146 GB of GPU memory for a context of 2048 tokens; '
        'profile "small" has 22 GB.'
    )
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("Choose one of: large, cpu, old.")


ONE = """
clusters: {{della: {{}}}}
models: {{folders: [{models}]}}
profiles: {{large: {{cluster: della, gpus: 1, gpu_type: a100, gpu_memory_gb: 80}}}}
environments: {{vllm: {{kind: module, modules: [vllm]}}}}
{more}
"""


def test_a_copy_in_fewer_bits_on_this_disk_is_named(models: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        plan(settings(models, tmp_path, site=ONE), "org/llama-70b", max_model_len=32768)
    assert str(caught.value) == (
        'Model "org/llama-70b" needs about 156 GB of GPU memory for a context of 32768 tokens; '
        'profile "large" has 79 GB. Take its copy other/llama-70b-AWQ in fewer bits (as MODEL).'
    )


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ({"profile": "old", "engine_args": ("--dtype", "bfloat16")},
         'cannot run so on profile "old": bfloat16 needs compute capability 8.0; a V100 has 7.0. '),
        ({"profile": "large", "max_model_len": 200000},
         "The model's own context is 131072 tokens; 200000 were asked for."),
        ({"profile": "large", "engine_args": ("-tp", "16")},
         "A split over 16 GPUs is more than the 8 there are."),
        ({"profile": "large", "gpus": 9}, 'Profile "large" has at most 8 GPUs on a node, not 9.'),
        ({"max_model_len": 0}, "The context must be at least 1 token, not 0."),
    ],
)  # fmt: skip
def test_other_refusals_are_one_sentence(
    models: Path, tmp_path: Path, wanted: dict[str, object], sentence: str
) -> None:
    with pytest.raises((ModelError, RequestError)) as caught:
        plan(settings(models, tmp_path), "org/llama-8b", **wanted)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_the_check_nothing_is_refused_and_nothing_chosen(models: Path, tmp_path: Path) -> None:
    made = plan(settings(models, tmp_path), "org/llama-70b", profile="small", fit_check=False)
    assert made.resources.gpus == 1
    assert made.engine_args == ()


def test_a_known_models_parsers_are_added_unless_the_user_has_a_word(models: Path, tmp_path: Path) -> None:
    found = settings(models, tmp_path)
    made = plan(found, "meta-llama/Llama-3.1-8B-Instruct")
    assert made.engine_args[-3:] == ("--enable-auto-tool-choice", "--tool-call-parser", "llama3_json")
    own = plan(found, "meta-llama/Llama-3.1-8B-Instruct", engine_args=("--tool-call-parser", "mine"))
    assert own.engine_args.count("--tool-call-parser") == 1
    assert "--enable-auto-tool-choice" not in own.engine_args
    assert "--tool-call-parser" not in plan(found, "org/llama-8b").engine_args


def test_a_processor_gets_a_cache_that_its_memory_holds(models: Path, tmp_path: Path) -> None:
    made = plan(settings(models, tmp_path), "Qwen/Qwen2.5-0.5B-Instruct", profile="cpu")
    at = made.engine_args.index("--kv-cache-memory-bytes")
    assert int(made.engine_args[at + 1]) == 4 * 2**30


def test_the_sites_limits_hold(models: Path, tmp_path: Path) -> None:
    found = settings(models, tmp_path, "limits: {gpus: 2, hours: 6, sessions: 3}\n")
    made = plan(found, "org/llama-70b")
    assert made.resources.gpus == 2
    assert plan(found, "org/llama-8b", profile="large").limits.hours == 4
    for wanted, sentence in (
        ({"profile": "large", "gpus": 3}, "This site allows at most 2 GPUs for one session, not 3."),
        ({"profile": "small", "hours": 7.0}, "This site allows up to 6 hours for one session, not 7."),
        ({"profile": "old"}, "This site allows at most 2 GPUs for one session, not 8."),
    ):
        with pytest.raises(RequestError) as caught:
            plan(found, "org/llama-8b", **wanted)
        assert caught.value.message == sentence
    within_limits(found, 2)
    with pytest.raises(RequestError, match="at most 3 sessions of one user at a time, and you have 3"):
        within_limits(found, 3)
    within_limits(settings(models, tmp_path), 1000)


ACCOUNTS = """
clusters: {{della: {{}}}}
profiles:
  any: {{cluster: della}}
  must: {{cluster: della, account_required: true}}
  one: {{cluster: della, account_required: true, accounts: [chem]}}
  some: {{cluster: della, account: base, accounts: [base, chem, bio], qos_choices: [short, long]}}
environments: {{none: {{engines: [vllm]}}, sim: {{engines: [simulated]}}}}
models: {{folders: [{models}]}}
{more}
"""


@pytest.mark.parametrize(
    ("wanted", "account", "sentence"),
    [
        ({"profile": "any"}, None, None),
        ({"profile": "any", "account": "own"}, "own", None),
        ({"profile": "must"}, None, 'Profile "must" needs an account to charge. Name it: --account NAME.'),
        ({"profile": "must", "account": "own"}, "own", None),
        ({"profile": "one"}, "chem", None),
        ({"profile": "one", "account": "bio"}, None,
         'Account "bio" is not among those for profile "one". Choose one of: chem.'),
        ({"profile": "some"}, "base", None),
        ({"profile": "some", "account": "bio", "qos": "long"}, "bio", None),
        ({"profile": "some", "qos": "huge"}, None,
         'QoS "huge" is not among those for profile "some". Choose one of: short, long.'),
        ({"profile": "any", "environment": "none"}, None,
         'Environment "none" does not hold the engine simulated. Choose one of: launcher, sim.'),
    ],
)  # fmt: skip
def test_accounts_and_qos_follow_the_profiles_rules(
    models: Path, tmp_path: Path, wanted: dict[str, object], account: str | None, sentence: str | None
) -> None:
    found = settings(models, tmp_path, site=ACCOUNTS)
    if sentence is None:
        made = plan(found, "simulated", **wanted)
        assert made.resources.account == account
        assert made.environment.name in ("launcher", "sim")
        return
    with pytest.raises(RequestError) as caught:
        plan(found, "simulated", **wanted)
    assert str(caught.value) == sentence
