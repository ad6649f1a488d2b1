"""What the launcher is compared with, set up as one would by hand: nginx, the LiteLLM proxy, vec-inf."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
Command = Callable[[int], Sequence[str]]


def nginx_command(nginx: str, folder: Path, engine: Path, key: str) -> Command:
    """nginx with the key checked, connections kept, nothing buffered, bodies of any size."""
    paths = "".join(
        f"  {kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root; " if os.geteuid() == 0 else ""  # else its worker may not enter the engine's folder

    def command(port: int) -> Sequence[str]:
        configuration = folder / f"nginx-{port}.conf"
        configuration.write_text(
            f"{user}worker_processes 1; pid {folder}/nginx-{port}.pid; daemon off; "
            f"error_log {folder}/nginx-{port}.log;\n"
            f"events {{ worker_connections 1024; }}\nhttp {{\n  access_log off;\n{paths}"
            f"  upstream engine {{ server unix:{engine}; keepalive 128; }}\n"
            f"  server {{ listen 127.0.0.1:{port}; keepalive_requests 1000000; client_max_body_size 0;\n"
            "    location / {\n"
            f'      if ($http_authorization != "Bearer {key}") {{ return 401; }}\n'
            '      proxy_pass http://engine; proxy_http_version 1.1; proxy_set_header Connection "";\n'
            '      proxy_set_header Authorization ""; proxy_buffering off; proxy_request_buffering off;\n'
            "    }\n  }\n}\n"
        )
        return nginx, "-c", str(configuration), "-p", str(folder), "-e", f"{folder}/nginx-{port}.log"

    return command


def litellm_program() -> Path | str:
    """The LiteLLM proxy in a virtual environment of its own, made at the first call; else why there is none."""
    return _installed("litellm", "litellm", "half a gigabyte")


def vec_inf_program() -> Path | str:
    """The command `vec-inf` in a virtual environment of its own, made at the first call; else why there is none."""
    return _installed("vecinf", "vec-inf", "30 MB")


def _installed(name: str, command: str, size: str) -> Path | str:
    venv, versions = _ROOT / ".make" / name, _ROOT / "benchmarks" / f"{name}.txt"
    program = venv / "bin" / command
    made_from = venv / "versions.txt"
    if program.exists() and made_from.exists() and made_from.read_bytes() == versions.read_bytes():
        return program
    uv = next((str(path) for path in (_ROOT / ".make" / "uv" / "bin" / "uv",) if path.exists()), "")
    uv = uv or shutil.which("uv") or ""
    if not uv:
        return "uv was not found"
    print(f"{command} is being installed into .make/{name} ({size}, once) …", file=sys.stderr, flush=True)
    install = (uv, "pip", "install", "--quiet", "--only-binary", ":all:", "--requirement", str(versions))
    for argv in (
        (uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(venv)),
        (*install, "--python", str(venv / "bin" / "python")),
    ):
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return f"uv could not install it: {(done.stderr.strip().splitlines() or ['?'])[-1]}"
    shutil.copyfile(versions, made_from)
    return program


def litellm_command(program: Path, folder: Path, engine_port: int, key: str) -> Command:
    """LiteLLM with one upstream, which must be TCP, and the same key as its master key."""
    api = f"api_base: http://127.0.0.1:{engine_port}/v1, api_key: none"
    configuration = folder / "litellm.yml"
    configuration.write_text(
        "model_list:\n"
        f"  - model_name: tiny\n    litellm_params: {{model: openai/tiny, {api}}}\n"
        f"  - model_name: tiny-whisper\n    litellm_params: {{model: openai/tiny-whisper, {api}}}\n"
        "    model_info: {mode: audio_transcription}\n"
        "litellm_settings: {telemetry: false, request_timeout: 600}\n"
        f"general_settings: {{master_key: {key}}}\n"
    )
    argv = (str(program), "--config", str(configuration), "--host", "127.0.0.1", "--num_workers", "1")
    return lambda port: (*argv, "--telemetry", "False", "--port", str(port))


def litellm_environment(folder: Path, path: str) -> Mapping[str, str]:
    """Nothing of this machine's environment; whatever it would fetch from elsewhere ends at a closed port."""
    nowhere = "http://127.0.0.1:9"
    return {
        "PATH": path,
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
        "NO_PROXY": "127.0.0.1,localhost",
        "HTTP_PROXY": nowhere,
        "HTTPS_PROXY": nowhere,
    }
