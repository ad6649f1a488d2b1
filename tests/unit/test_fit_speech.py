"""How much memory a Whisper model needs: the formula against what faster-whisper's README reports, and the words."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from launcher.errors import ModelError, SettingsError
from launcher.models.fit.gpus import Gpu
from launcher.models.fit.hardware import Hardware
from launcher.models.fit.reserve import GB
from launcher.models.fit.speech import fit_speech, total
from launcher.models.inspect.facts import Facts, facts
from launcher.planning import Request, make_plan
from launcher.settings.layers import load
from tests.snapshots import Folders, whisper

A_GPU = Gpu("RTX3070TI", 8.0, 8.6)
_MB = 10**6


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    return facts(whisper(tmp_path_factory.mktemp("w") / "m"))


def of(base: Facts, parameters: float, layers: int, hidden: int) -> Facts:
    """The facts of a Whisper model of this size (openai/whisper, model.py)."""
    heads = hidden // 64
    return dataclasses.replace(
        base, parameters=int(parameters), layers=layers, hidden=hidden, intermediate=4 * hidden, heads=heads
    )


@pytest.mark.parametrize(
    ("compute_type", "batch", "measured_mb"),
    [("float16", None, 4525), ("float16", "8", 6090), ("int8", None, 2926), ("int8", "8", 4500)],
)
def test_the_sum_on_a_gpu_is_near_what_was_measured(
    small: Facts, compute_type: str, batch: str | None, measured_mb: int
) -> None:
    """SYSTRAN/faster-whisper, README, large-v2 on an RTX 3070 Ti; a full cache of each stretch is the worst case."""
    found = total(of(small, 1.55e9, 32, 1280), A_GPU, compute_type, batch).bytes
    if batch is None:
        assert found == pytest.approx(measured_mb * _MB, rel=0.15)
    else:
        assert measured_mb * _MB < found < 2.0 * measured_mb * _MB


@pytest.mark.parametrize(("compute_type", "measured_mb"), [("float32", 2257), ("int8", 1477)])
def test_the_sum_on_a_processor_is_near_what_was_measured(
    small: Facts, compute_type: str, measured_mb: int
) -> None:
    """The same README, the model small."""
    found = total(of(small, 0.244e9, 12, 768), None, compute_type, None).bytes
    assert found == pytest.approx(measured_mb * _MB, rel=0.2)


def hardware(gpus: int, gpu_gb: float | None, memory_gb: float | None) -> Hardware:
    gpu = Gpu("A", gpu_gb, 8.0) if gpu_gb is not None else None
    return Hardware("p", 1, gpus, gpu, memory_gb)


def test_a_model_that_fits(small: Facts) -> None:
    found = fit_speech(small, hardware(1, 24, None))
    assert (found.verdict, found.starts, found.engine_args, found.context) == ("fits", True, (), None)
    assert len(found.arithmetic) == 4
    assert fit_speech(small, hardware(0, None, 8)).verdict == "fits"


def test_a_gpu_too_small_for_halves_is_large_enough_for_eight_bits(small: Facts) -> None:
    large = of(small, 1.55e9, 32, 1280)
    found = fit_speech(large, hardware(1, 3.8, 64))
    assert (found.verdict, found.starts, found.memory_short) == ("fits-if", False, True)
    (remedy,) = found.remedies
    assert remedy.engine_args == ("--compute-type", "int8")
    assert fit_speech(large, hardware(1, 3.8, 64), remedy.engine_args).verdict == "fits"
    assert found.reasons[0].startswith("About 4.")
    assert fit_speech(large, hardware(1, 1.5, 64)).verdict == "does-not-fit"


def test_what_is_asked_for_is_weighed(small: Facts) -> None:
    large = of(small, 1.55e9, 32, 1280)
    many = fit_speech(large, hardware(1, 8, None), ("--batch-size", "64"))
    assert (many.verdict, many.starts) == ("fits-if", False)
    assert many.remedies[0].text.startswith("at most 6 stretches at once")
    assert fit_speech(large, hardware(1, 8, None), many.remedies[0].engine_args).verdict == "fits"
    assert fit_speech(large, hardware(1, 8, None), ("--batch-size=2",)).verdict == "fits"
    asked = fit_speech(large, hardware(1, 4.8, None), ("--compute-type=float32",))
    assert (asked.verdict, asked.remedies) == ("does-not-fit", ())  # it was asked for
    # The processor's memory counts where the processor is asked for.
    assert fit_speech(large, hardware(1, 2, 64), ("--device", "cpu")).verdict == "fits"


def test_an_old_gpu_has_no_halves(small: Facts) -> None:
    assert total(small, Gpu("P100", 16.0, 6.0), None, None).compute_type == "float32"
    assert total(small, Gpu("P40", 24.0, 6.1), None, None).compute_type == "int8_float32"
    assert total(small, Gpu("V100", 16.0, 7.0), None, None).compute_type == "float16"


def test_what_the_site_did_not_say_is_no_reason_to_refuse(small: Facts) -> None:
    for where in (hardware(1, None, 64), hardware(0, None, None)):
        found = fit_speech(small, where)
        assert (found.verdict, found.starts) == ("unknown", True)
        assert "does not say how much memory" in found.reasons[0]


@pytest.mark.parametrize(
    ("gpus", "words"),
    [
        (1, ()),
        (2, ("A Whisper session uses one GPU; the other stays idle.",)),
        (4, ("A Whisper session uses one GPU; the other 3 stay idle.",)),
    ],
)
def test_gpus_that_would_stand_idle_are_told(small: Facts, gpus: int, words: tuple[str, ...]) -> None:
    assert fit_speech(small, hardware(gpus, 24, None)).notes == words


# -- in a plan

PROFILES = """
clusters: {c: {}}
profiles:
  tiny: {cluster: c, memory_gb: 0.5}
  node: {cluster: c, memory_gb: 32}
  gpu: {cluster: c, gpus: 1, gpu_memory_gb: 24}
  two: {cluster: c, gpus: 1, gpu_memory_gb: 24, nodes: 2}
"""


@pytest.fixture
def site(tmp_path: Path) -> Folders:
    folders = Folders(tmp_path)
    whisper(folders.one / "faster-whisper-tiny")
    return folders


def test_a_plan_takes_a_profile_on_which_it_fits(site: Folders) -> None:
    made = make_plan(Request("faster-whisper-tiny"), site.settings(PROFILES), door="shell")
    assert made.resources.profile == "gpu"  # of those that are left the GPUs come first
    assert made.origins["profile"] == "chosen to fit"
    first = site.settings(f"{PROFILES}session: {{profile: node}}")
    assert make_plan(Request("faster-whisper-tiny"), first, door="shell").resources.profile == "node"


def test_a_plan_refuses_a_profile_that_is_too_small(site: Folders) -> None:
    with pytest.raises(ModelError) as caught:
        make_plan(Request("faster-whisper-tiny", profile="tiny"), site.settings(PROFILES), door="shell")
    assert str(caught.value).startswith(
        'Model "faster-whisper-tiny" needs about 0.6 GB of memory; profile "tiny" has 0.5 GB. '
        "Choose one of: gpu, node."
    )
    asked = Request("faster-whisper-tiny", profile="tiny", fit_check=False)
    assert make_plan(asked, site.settings(PROFILES), door="shell").engine == "whisper"


def test_a_second_node_would_stand_idle(site: Folders) -> None:
    with pytest.raises(Exception, match="has 2 nodes, and a Whisper model runs on one"):
        make_plan(Request("faster-whisper-tiny", profile="two"), site.settings(PROFILES), door="shell")


def test_what_makes_no_sense_for_sound_is_refused(site: Folders) -> None:
    with pytest.raises(Exception, match="A Whisper session has no context length"):
        make_plan(Request("faster-whisper-tiny", max_model_len=4096), site.settings(PROFILES), door="shell")


def test_the_settings_limits_are_in_the_plan(site: Folders) -> None:
    more = "limits: {audio_hours: 3}\nallow: {audio_folders: [/scratch/$USER, '~/audio']}"
    made = make_plan(Request("faster-whisper-tiny"), site.settings(f"{PROFILES}{more}"), door="shell")
    assert made.limits.audio_hours == 3
    assert [Path(folder).is_absolute() and "$" not in folder for folder in made.audio_folders] == [True, True]
    older = make_plan(Request("faster-whisper-tiny"), site.settings(PROFILES), door="shell")
    assert (older.limits.audio_hours, older.audio_folders) == (None, ())


def test_a_users_file_cannot_lift_the_sites_limits(site: Folders, tmp_path: Path) -> None:
    site.settings("limits: {audio_hours: 3}\nallow: {audio_folders: [/scratch]}")
    for more in ("limits: {audio_hours: 99}", "allow: {audio_folders: []}"):
        own = tmp_path / "own.yml"
        own.write_text(more)
        with pytest.raises(Exception, match="is locked by"):
            load({"LAUNCHER_SITE": str(site.root / "site.yml"), "LAUNCHER_CONFIG": str(own)})


# -- where the program comes from

VLLM = "v: {kind: module, modules: [vllm]}"


def environment(site: Folders, environments: str, **wanted: object) -> str:
    settings = site.settings(f"{PROFILES}environments: {{{environments}}}")
    made = make_plan(Request("faster-whisper-tiny", **wanted), settings, door="shell")  # type: ignore[arg-type]
    return made.environment.name


def test_an_environment_that_names_whisper_goes_before_the_launchers_own(site: Folders) -> None:
    assert environment(site, VLLM) == "launcher"  # "any engine" was written when there was only vLLM
    assert environment(site, f"{VLLM}, w: {{kind: module, modules: [fw], engines: [whisper]}}") == "w"
    assert environment(site, VLLM, environment="v") == "v"  # who asks for it has it


def test_a_profiles_environment_for_vllm_is_passed_over(site: Folders) -> None:
    more = PROFILES.replace("gpus: 1, gpu_memory_gb: 24}", "gpus: 1, gpu_memory_gb: 24, environment: v}", 1)
    for engines in ("", ", engines: [vllm]"):
        held = f"environments: {{v: {{kind: module, modules: [vllm]{engines}}}}}"
        made = make_plan(
            Request("faster-whisper-tiny", profile="gpu"), site.settings(f"{more}{held}"), door="shell"
        )
        assert made.environment.name == "launcher"


def test_a_venv_without_faster_whisper_is_told_before_a_job_is_queued(site: Folders, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    (bare / "bin").mkdir(parents=True)
    (bare / "lib" / "python3.12" / "site-packages" / "flask").mkdir(parents=True)
    (bare / "pyvenv.cfg").write_text("include-system-site-packages = false\n")
    entry = f"w: {{kind: venv, path: {bare}, engines: [whisper]}}"
    with pytest.raises(Exception, match=r"has no program .*/bare/bin/python3"):
        environment(site, entry)
    (bare / "bin" / "python3").symlink_to("/bin/true")
    with pytest.raises(SettingsError) as caught:
        environment(site, entry)
    assert str(caught.value).endswith(
        f"environments.w ({bare}) has no faster-whisper, gunicorn. Install faster-whisper flask gunicorn there, or "
        "choose another environment."
    )
    for name in ("faster_whisper", "gunicorn"):
        (bare / "lib" / "python3.12" / "site-packages" / name).mkdir()
    assert environment(site, entry) == "w"


def test_needs_grow_with_the_model(small: Facts) -> None:
    sizes = [(0.039e9, 4, 384), (0.244e9, 12, 768), (0.769e9, 24, 1024), (1.55e9, 32, 1280)]
    needs = [fit_speech(of(small, *size), hardware(1, 80, None)).needs_gb or 0 for size in sizes]
    assert needs == sorted(needs)
    assert needs[0] > 0.5
    assert needs[-1] * GB < 6 * GB
