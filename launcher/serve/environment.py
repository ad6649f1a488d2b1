"""Where the engine's program comes from: its command, in a venv, under modules or in a container."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from launcher.engines import Command, Diagnosis
from launcher.engines.causes import quoted_end
from launcher.engines.installed import venv_folder
from launcher.engines.whisper import PACKAGE
from launcher.errors import EngineError
from launcher.models.links import model_root, reached
from launcher.sessions.plan import Plan

NOT_STARTED = 78  # modules.sh; EX_CONFIG of sysexits.h
MODULES = Path(__file__).with_name("modules.sh")
# Not for an engine, whoever asks: what writes prompts into its log, or switches on a key of its own behind our gateway.
_NEVER = ("VLLM_LOGGING_LEVEL", "VLLM_DEBUG_LOG_API_SERVER_RESPONSE", "VLLM_API_KEY")
# Secrets of the user that it has no use for.
WITHHELD = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "VLLM_API_KEY", "OPENAI_API_KEY")
_PASSED_INTO_CONTAINER = (
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
)


def inside(command: Command, plan: Plan, runtime: Path, cache: Path, variables: Mapping[str, str]) -> Command:
    """`command` as it is started on this node, with all its environment variables.

    `runtime` is the directory of the sockets and `cache` that of the engine's caches, both of which a container must
    see; `variables` is the job's environment.
    """
    environment = plan.environment
    kept = {k: v for k, v in variables.items() if k not in WITHHELD and not k.startswith("LAUNCHER_")}
    site = {name: value for name, value in environment.env.items() if name not in _NEVER}
    added = {"PYTHONNOUSERSITE": "1", **command.env, **site}
    if plan.engine == "simulated":  # part of the launcher itself: it needs nobody's environment
        return Command(command.argv, {**kept, **added})
    if environment.kind == "container":
        return _container(command, plan, (runtime, cache), kept, added)
    if environment.kind == "module":
        argv = (str(MODULES), environment.setup or "", str(len(environment.modules)), *environment.modules)
        return Command((*argv, *command.argv), {**kept, **added})
    folder = venv_folder(environment)
    kept.pop("PYTHONHOME", None)
    path = f"{folder / 'bin'}:{kept.get('PATH', os.defpath)}"
    argv0 = str(folder / "bin" / command.argv[0])
    own = {"VIRTUAL_ENV": str(folder), "PATH": path, **_cuda(plan, folder, kept)}
    return Command((argv0, *command.argv[1:]), {**kept, **own, **added})


def trouble(log_tail: str, exit_code: int) -> Diagnosis | None:
    """Why the program never started, where modules.sh said so."""
    if exit_code != NOT_STARTED:
        return None
    said = [
        line.removeprefix("launcher: ") for line in log_tail.splitlines() if line.startswith("launcher: ")
    ]
    if not said:
        return None
    sentence = f"{said[-1][0].upper()}{said[-1][1:]}."
    hint = "Ask the site to check the environment's modules."
    return Diagnosis("environment", sentence, hint, quote=quoted_end(log_tail))


def _cuda(plan: Plan, folder: Path, kept: Mapping[str, str]) -> dict[str, str]:
    """Where CTranslate2, which looks for CUDA's libraries by name alone, finds those that pip put into a venv."""
    if plan.engine != "whisper" or not plan.resources.gpus:
        return {}
    # nvidia-cublas-cu12 and nvidia-cudnn-cu12 (SYSTRAN/faster-whisper, README, Requirements).
    places = sorted(map(str, folder.glob("lib/python3*/site-packages/nvidia/*/lib")))
    before = kept.get("LD_LIBRARY_PATH")
    return {"LD_LIBRARY_PATH": ":".join([*places, *([before] if before else [])])} if places else {}


def _audio(plan: Plan) -> list[str]:
    """The folders of audio files that a container should see; what cannot be bound is left to the site's `binds`."""
    named = plan.audio_folders or (os.path.expanduser("~"),)
    return [folder for folder in named if os.path.isdir(folder) and not set(folder) & set(",:")]


def _container(
    command: Command, plan: Plan, folders: tuple[Path, Path], kept: dict[str, str], added: dict[str, str]
) -> Command:
    environment = plan.environment
    argv = [environment.runtime, "exec", "--cleanenv"]
    if plan.resources.gpus:
        argv.append("--nv")
    binds = [*map(str, folders), *environment.binds]
    model: list[Path] = []
    if plan.model.snapshot:
        snapshot = Path(plan.model.snapshot)
        model = [model_root(snapshot), *reached(snapshot)]
    if plan.engine == "whisper":  # the program is ours, only what it needs is the image's
        model.append(PACKAGE)
        binds += _audio(plan)
    binds += [f"{folder}:{folder}:ro" for folder in model]
    if plan.work_dir:
        binds.append(plan.work_dir)
        argv += ["--pwd", plan.work_dir]
    for folder in map(str, (*folders, *model, plan.work_dir or "")):
        if set(folder) & set(",:"):  # they separate binds, and cannot be quoted
            raise EngineError(
                f"A container cannot be given the folder {folder}.", "Rename it: no comma, no colon."
            )
    for bind in binds:
        argv += ["--bind", bind]
    passed = {name: kept[name] for name in _PASSED_INTO_CONTAINER if name in kept}
    # Variables reach a container as APPTAINERENV_NAME, also under --cleanenv, and stay out of the command line.
    prefix = f"{environment.runtime.upper()}ENV_"
    inner = {f"{prefix}{name}": value for name, value in {**passed, **added}.items()}
    return Command((*argv, str(environment.image), *command.argv), {**kept, **inner})
