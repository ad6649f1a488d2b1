"""What is chosen where the request leaves it open, what is passed over, and how it is said."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from launcher.api import Session
from launcher.cli import main
from launcher.cli.launch import chosen, plan_table
from launcher.errors import LauncherError, ModelError, RequestError
from launcher.models.inspect.facts import facts
from launcher.models.resolve import resolve
from launcher.ondemand.card import info
from launcher.ondemand.words import in_the_forms_words
from launcher.planning import Request, make_plan
from launcher.planning.soonest import soonest
from launcher.planning.verdicts import verdicts
from launcher.sessions.paths import SessionPaths
from launcher.sessions.plan import Plan
from launcher.sessions.status import PENDING, Status
from launcher.settings.layers import load
from launcher.settings.schema import Settings
from tests.unit.fit_models import snapshot

SITE = """
clusters: {{c: {{}}}}
models: {{folders: [{models}]}}
profiles:
  old: {{cluster: c, gpus: 4, gpu_type: v100, gpu_memory_gb: 32, hours_max: 100}}
  small: {{cluster: c, gpus: 1, gpu_type: l4, hours_max: 12, accounts: [chem], hours: 1}}
  large: {{cluster: c, gpus: 2, gpus_max: 4, gpu_type: a100, gpu_memory_gb: 80, memory_gb: 64, hours_max: 4}}
  two: {{cluster: c, gpus: 1, nodes: 2, gpu_type: h100, hours_max: 4}}
  cpu: {{cluster: c, memory_gb: 900, hours_max: 48}}
  tight: {{cluster: c, memory_gb: 8}}
environments: {{vllm: {{kind: module, modules: [vllm]}}}}
{more}
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name in ("llama-8b", "llama-70b", "llama-70b-fp8", "qwen2.5-0.5b", "llama-8b-bnb"):
        snapshot(folder / "org" / name, name)
    return folder


@pytest.fixture
def site(models: Path, tmp_path: Path) -> Settings:
    return settings(models, tmp_path)


def settings(models: Path, tmp_path: Path, more: str = "", text: str = SITE) -> Settings:
    file = tmp_path / "site.yml"
    file.write_text(text.format(models=models, more=more))
    return load({"LAUNCHER_SITE": str(file), "XDG_CONFIG_HOME": str(tmp_path), "HOME": str(tmp_path)})


def plan(found: Settings, model: str, **wanted: object) -> Plan:
    return make_plan(Request(model, **wanted), found, door="shell")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wanted", "profile", "origin"),
    [
        ({}, "small", "the first profile"),
        ({"hours": 24.0}, "cpu", "the first that gives what was asked for"),
        ({"hours": 72.0}, "old", "the first that gives what was asked for"),
        ({"gpus": 3}, "large", "the first that gives what was asked for"),
        ({"account": "bio"}, "large", "the first that gives what was asked for"),
        ({"account": "chem"}, "small", "the first profile"),
        ({"profile": "two", "nodes": 1}, "two", "request"),
    ],
)
def test_what_cannot_give_what_was_asked_is_passed_over(
    site: Settings, wanted: dict[str, object], profile: str, origin: str
) -> None:
    made = plan(site, "org/qwen2.5-0.5b", **wanted)
    assert (made.resources.profile, made.origins["profile"]) == (profile, origin)


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ({"hours": 101.0}, 'No profile here allows 101 hours. The longest is "old", up to 100 hours.'),
        ({"gpus": 8}, 'No profile here has 8 GPUs on a node. The most are 4, on "large".'),
        ({"gpus": 8, "profile": "large"}, 'Profile "large" has at most 4 GPUs on a node, not 8.'),
        ({"gpus": 1, "profile": "cpu"}, 'Profile "cpu" has no GPU, not 1.'),
        ({"nodes": 2}, "This site allows one model one node, not 2. Ask for --nodes 1. The site can raise"),
        (
            {"profile": "two"},
            'Profile "two" has 2 nodes, and this site allows one model one node. Choose another',
        ),
    ],
)
def test_what_nobody_can_give_is_said_once(site: Settings, wanted: dict[str, object], sentence: str) -> None:
    with pytest.raises(RequestError) as caught:
        plan(site, "org/qwen2.5-0.5b", **wanted)
    assert str(caught.value).startswith(sentence)


def test_a_profile_with_more_gpus_than_the_limit_is_passed_over(models: Path, tmp_path: Path) -> None:
    found = settings(models, tmp_path, "limits: {gpus: 1}\nsession: {profile: large}")
    made = plan(found, "org/qwen2.5-0.5b")
    assert made.resources.profile == "small"
    with pytest.raises(RequestError, match="at most 1 GPU for one session, not 2"):
        plan(found, "org/qwen2.5-0.5b", profile="large")


def test_a_profile_that_another_launcher_plans_for_is_never_taken_here(models: Path, tmp_path: Path) -> None:
    far = (
        "clusters: {{main: {{}}, far: {{ssh: far, launcher: /apps/launcher}}}}\n"
        "profiles: {{theirs: {{cluster: far}}, ours: {{cluster: main}}}}\n"
        "models: {{folders: [{models}]}}\n"
        "environments: {{vllm: {{kind: module, modules: [vllm]}}}}\n"
        "catalog:\n"
        "  both: {{id: org/qwen2.5-0.5b, profiles: [theirs, ours]}}\n"
        "  there: {{id: org/qwen2.5-0.5b, profiles: [theirs]}}\n"
    )
    found = settings(models, tmp_path, text=far)
    assert plan(found, "both").resources.profile == "ours"
    for name, wanted in (("both", {"profile": "theirs"}), ("there", {})):
        with pytest.raises(RequestError, match='Profile "theirs" is on cluster far'):
            plan(found, name, **wanted)
    model = resolve("both", found)
    assert model.snapshot is not None
    weighed = verdicts(Request("both"), model, facts(model.snapshot), found)
    assert [verdict.profile.name for verdict in weighed] == ["ours"]
    (start,) = soonest(found, [found.profiles["theirs"]])
    assert start.trouble == "Its cluster knows: launcher --cluster far profiles"


def test_fit_and_launch_refuse_a_profile_that_the_catalog_leaves_out(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings(models, tmp_path, "catalog: {eight: {id: org/llama-8b, profiles: [large]}}")
    monkeypatch.setenv("LAUNCHER_SITE", str(tmp_path / "site.yml"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    said = []
    for words in (["fit", "eight"], ["launch", "eight", "--dry-run"]):
        assert main([*words, "--profile", "small"]) == 2
        said.append(capsys.readouterr().err)
    assert said[0] == said[1]
    assert 'Model "eight" does not run on profile "small". Choose one of: large.' in said[0]


def test_old_gpus_come_last_unless_all_are_old_or_the_site_wants_them(models: Path, tmp_path: Path) -> None:
    found = settings(models, tmp_path)
    assert plan(found, "org/llama-8b").resources.profile == "small"
    assert plan(found, "org/llama-8b", hours=72.0).resources.profile == "old"
    wanted = settings(models, tmp_path, "session: {profile: old}\n")
    assert plan(wanted, "org/llama-8b").resources.profile == "old"


def test_a_processor_is_not_taken_for_the_sake_of_a_longer_context(models: Path, tmp_path: Path) -> None:
    """24 GB less 8 bits of margin: the card holds less than a document's context, the processor's memory all of it."""
    smaller = settings(models, tmp_path, text=SITE.replace("gpu_type: l4", "gpu_type: a2"))
    made = plan(smaller, "org/llama-8b", hours=12.0)
    assert made.resources.profile == "cpu"  # 16 GB hold no context at all
    found = settings(models, tmp_path)
    short = plan(found, "org/llama-8b", hours=12.0, engine_args=("--gpu-memory-utilization", "0.85"))
    assert short.resources.profile == "small"
    assert int(short.engine_args[short.engine_args.index("--max-model-len") + 1]) < 20000


def test_who_names_a_kind_of_gpu_never_gets_a_job_without_one(site: Settings) -> None:
    assert plan(site, "simulated", gpu_type="h200", hours=13.0).resources.profile == "old"  # not "cpu"
    assert plan(site, "qwen2.5-0.5b", gpu_type="a100").resources.profile == "large"
    with pytest.raises(RequestError, match='Profile "cpu" has no GPU, and h200 was asked for'):
        plan(site, "simulated", gpu_type="h200", profile="cpu")


def test_a_shortened_context_is_told_at_every_door(site: Settings) -> None:
    made = plan(site, "org/llama-8b")
    told = made.origins["context"]
    tokens = made.engine_args[made.engine_args.index("--max-model-len") + 1]
    assert told == f"{tokens} of 131072 tokens (chosen to fit; large has room for all)"
    assert ("Context", told) in chosen(made)
    assert f"<strong>Context:</strong> {told}" in info(made, Status(made.id, PENDING, 0.0, "It waits."))
    more = plan(site, "org/llama-70b", profile="large")
    assert more.origins["context"].endswith(
        "of 131072 tokens (chosen to fit; 3 GPUs of large have room for all)"
    )
    assert "context" not in plan(site, "org/qwen2.5-0.5b").origins


def test_a_dry_run_and_the_table_of_a_launch_tell_what_waschosen(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = settings(models, tmp_path)
    monkeypatch.setenv("LAUNCHER_SITE", str(tmp_path / "site.yml"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["launch", "org/llama-70b", "--account", "chem", "--dry-run"]) == 0
    shown = capsys.readouterr()
    assert "131072" not in shown.out  # the script stays a script
    assert re.search(r"^Context: \d+ of 131072 tokens \(chosen to fit; 3 GPUs of large have", shown.err, re.M)
    assert "Profile: large (chosen to fit)" in shown.err
    made = plan(found, "org/llama-70b")
    paths = SessionPaths(tmp_path / "session")
    paths.root.mkdir()
    paths.plan.write_text(made.to_json())
    rows = re.sub(r" +", " ", plan_table(Session(paths)))
    assert f"Context │ {made.origins['context']}" in rows
    assert "Profile │ large (chosen to fit)" in rows


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ({"model": "org/llama-70b-fp8", "profile": "old"},
         'cannot run so on profile "old": fp8 weights need compute capability 7.5; a V100 has 7.0.'),
        ({"model": "org/llama-8b-bnb"},
         "vLLM 0.32 does not load bitsandbytes weights. Take a plain copy, or one in AWQ, GPTQ or FP8 (as MODEL)."),
        ({"model": "org/llama-8b", "profile": "large", "gpus": 4, "engine_args": ("-tp", "3")},
         "32 attention heads cannot be divided by 3. Take a split over 4 GPUs (-- --tensor-parallel-size 4), "
         "or a split over 2 GPUs (-- --tensor-parallel-size 2)."),
        ({"model": "org/llama-8b", "profile": "small", "max_model_len": 200_000},
         "The model's own context is 131072 tokens; 200000 were asked for. "),
        ({"model": "org/llama-8b", "profile": "tight"},
         'needs about 18 GB of memory for a context of 2048 tokens; profile "tight" has 8.0 GB. Choose one of: '),
        ({"model": "org/llama-70b", "profile": "large", "gpus": 2, "engine_args": ("--cpu-offload-gb", "40")},
         '40 GB of the weights of each of 2 GPUs do not fit into the node\'s memory: profile "large" has 64 GB. '),
    ],
)  # fmt: skip
def test_a_refusal_names_the_first_trouble_and_the_way_out(
    site: Settings, wanted: dict[str, object], sentence: str
) -> None:
    with pytest.raises(ModelError) as caught:
        make_plan(Request(**wanted), site, door="shell")  # type: ignore[arg-type]
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("--gpu-memory-utilization", "90"), 'must be more than 0 and at most 1, not "90".'),
        (("--gpu_memory_utilization=0",), "must be more than 0 and at most 1"),
        (("--gpu-memory-util", "nan"), "must be more than 0 and at most 1"),
        (("--cpu-offload-gb", "-5"), "must be 0 or more, in GB for each GPU"),
        (("--cpu-offload-gb", "nan"), "must be 0 or more"),
        (("--cpu-offload-gb", "1e9"), "is too large"),
        (("--max-num-seqs", "0"), "must be 1 or more"),
        (("-tp", "-2"), "must be 1 or more"),
        (("--kv-cache-memory-bytes", "-1"), "must be 1 or more"),
        (("--max-model-len", "many"), 'must be a number, not "many".'),
        (("--max-model-len",), "has no value. Write --max-model-len=VALUE."),
        (("--max-model-len", "--enforce-eager"), "has no value."),
        (("--max-model-len", "9" * 30), "is too large"),
        (("--max-modle-len", "4096"), "vLLM has no option --max-modle-len. Did you mean --max-model-len?"),
        (("--enforce-eagr",), "Did you mean --enforce-eager?"),
    ],
)
def test_an_engine_argument_that_cannot_be_is_refused_before_the_queue(
    site: Settings, args: tuple[str, ...], sentence: str
) -> None:
    with pytest.raises(RequestError) as caught:
        plan(site, "org/qwen2.5-0.5b", engine_args=args, fit_check=False)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    "args", [("--max-model-len", "-1"), ("--max-model-len", "auto"), ("--some-new-option", "1"),
             ("--kv-cache-dtype-skip-layers", "1"), ("--max-num-queued-tokens", "1"), ("--cpu-offload-gb", "0")],
)  # fmt: skip
def test_what_vllm_takes_is_left_to_it(site: Settings, args: tuple[str, ...]) -> None:
    assert args[0] in plan(site, "org/qwen2.5-0.5b", engine_args=args).engine_args


def test_the_context_is_given_once(site: Settings) -> None:
    with pytest.raises(RequestError, match="given twice: 1000 tokens"):
        plan(site, "org/qwen2.5-0.5b", max_model_len=1000, engine_args=("--max_model_len=2000",))


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"model": "org/llama-8b", "profile": "large", "gpus": 4, "engine_args": ("-tp", "3")},
         'a split over 4 GPUs ("Engine arguments" --tensor-parallel-size 4)'),
        ({"model": "org/llama-70b", "profile": "large", "gpus": 2, "max_model_len": 131072},
         'Or take its copy org/llama-70b-fp8 in fewer bits, or 3 GPUs ("GPUs" 3), or a context of at most'),
        ({"model": "org/llama-8b", "profile": "two"}, "Choose other hardware."),
    ],
)  # fmt: skip
def test_the_forms_advice_names_its_fields(site: Settings, wanted: dict[str, object], said: str) -> None:
    with pytest.raises(LauncherError) as caught:
        make_plan(Request(**wanted), site, door="ondemand")  # type: ignore[arg-type]
    assert said in (in_the_forms_words(caught.value.hint) or "")
