"""Which arguments a user may add to `vllm serve`: what is the launcher's own, and what would run foreign code.

A list of refusals, not of permissions: vLLM has more than 300 options, and most are the user's to choose.
`tests/contract/test_vllm_flags.py` fails when a new vLLM brings an option that looks as if it belonged in a list here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import NoReturn

from launcher.errors import RequestError

_ADDRESS = "The launcher opens the only port, and the engine listens on a private socket"
_PRIVACY = "It would write prompts or answers to a log or send them away"
_PLACEMENT = "The launcher places the processes; how many nodes a model gets is --nodes of `launcher launch`"
_MODEL = "The launcher chose model and revision; name them with MODEL and --revision of `launcher launch`"
_KEY = "The launcher makes the key and keeps it out of command lines"

OWN: Mapping[str, str] = {
    **dict.fromkeys(
        (
            *("--host", "--port", "--uds", "--grpc", "--grpc-port", "--root-path", "--omni"),
            *("--ssl-keyfile", "--ssl-certfile", "--ssl-ca-certs", "--ssl-cert-reqs", "--ssl-ciphers"),
            *("--enable-ssl-refresh", "--allow-credentials", "--allowed-origins", "--allowed-methods"),
            *(
                "--allowed-headers",
                "--data-parallel-supervisor-port",
                "--data-parallel-multi-port-external-lb",
            ),
            "--middleware",
            *(
                "--kv-transfer-config",
                "--ec-transfer-config",
                "--weight-transfer-config",
                "--enable-elastic-ep",
            ),
        ),
        _ADDRESS,
    ),
    **dict.fromkeys(("--api-key", "--hf-token"), _KEY),
    **dict.fromkeys(
        (
            *("--model", "--served-model-name", "--revision", "--code-revision", "--tokenizer-revision"),
            *("--download-dir", "--config"),
        ),
        _MODEL,
    ),
    **dict.fromkeys(
        (
            *("--enable-log-requests", "--enable-log-outputs", "--log-error-stack", "--log-level"),
            *("--log-config-file", "--logging-config", "--uvicorn-log-level", "--max-log-len"),
            *("--disable-uvicorn-access-log", "--otlp-traces-endpoint", "--kv-events-config"),
        ),
        _PRIVACY,
    ),
    **dict.fromkeys(
        (
            *("--headless", "--nnodes", "--node-rank", "--master-addr", "--master-port"),
            *("--data-parallel-address", "--data-parallel-rpc-port", "--data-parallel-rank"),
            *("--data-parallel-start-rank", "--data-parallel-external-lb", "--data-parallel-hybrid-lb"),
            "--device-ids",
        ),
        _PLACEMENT,
    ),
    "--help": "It prints help and ends; run `vllm serve --help` in a shell",
}

# These import Python named by the user or the model's repository, or start programs.
CODE = (
    *("--trust-remote-code", "--tool-parser-plugin", "--reasoning-parser-plugin"),
    *("--io-processor-plugin", "--logits-processors", "--worker-cls", "--worker-extension-cls"),
    *("--scheduler-cls", "--model-class-overrides", "--tool-server", "--ray-workers-use-nsight"),
)
# `pt` and `npcache` unpickle, `ipc_cache` unpickles what a socket sends, plugins may do anything.
LOAD_FORMATS = (
    *("auto", "hf", "safetensors", "fastsafetensors", "instanttensor", "runai_streamer"),
    *("runai_streamer_sharded", "sharded_state", "mistral", "bitsandbytes", "gguf", "dummy"),
)

_SHORT = {
    "-h": "--help",
    "-n": "--nnodes",
    "-r": "--node-rank",
    "-dpa": "--data-parallel-address",
    "-dpe": "--data-parallel-external-lb",
    "-dph": "--data-parallel-hybrid-lb",
    "-dpm": "--data-parallel-multi-port-external-lb",
    "-dpn": "--data-parallel-rank",
    "-dpp": "--data-parallel-rpc-port",
    "-dpr": "--data-parallel-start-rank",
}
# Options that are whole words themselves although an option of ours begins with them.
_WHOLE = ("--tokenizer", "--reasoning-parser")
_NUMBER = re.compile(r"-\d")
_PYTHON_FILE = re.compile(r".*\.py[cd]?", re.DOTALL)
_PYTHON_NAME = re.compile(r"[A-Za-z_]\w*([.:][A-Za-z_]\w*)+")
_HARMLESS_NAME = re.compile(
    r"torch\.\w+|.*\.(json|jinja2?|ya?ml|txt|safetensors|gguf|model)"
)  # dtypes and files
_EXECUTORS = ("mp", "uni", "external_launcher")  # Ray opens ports of its own on every interface


def check_args(args: tuple[str, ...], *, allow_remote_code: bool) -> None:
    """Raise RequestError for an argument that is the launcher's own, or runs foreign code where that is not allowed.

    vLLM takes an option as `--a-b`, `--a_b`, `--a-b=value`, `--a-b.key value` and shortened to any unambiguous
    beginning (argparse); all of these are looked at.
    """
    for place, argument in enumerate(args):
        if "\0" in argument or "\n" in argument:
            raise RequestError(
                f"Engine argument {place + 1} holds a line break or a zero byte.", "Leave it out."
            )
        following = args[place + 1] if place + 1 < len(args) else None
        if argument == "--":
            _refuse(argument, "It would turn what follows into model names")
        if not argument.startswith("-") or _NUMBER.match(argument):
            _check_value(argument, allow_remote_code)
            continue
        word, _, value = argument.partition("=")
        _check_option(word, argument, following, allow_remote_code)
        if value:
            _check_value(value, allow_remote_code)
    if args and not args[0].startswith("-"):
        raise RequestError(
            f'The first engine argument "{args[0]}" is not an option.',
            "Write options of `vllm serve`, for example --max-model-len 8192.",
        )


def option_values(args: tuple[str, ...], option: str) -> list[str]:
    """The values given to a long option, spelled out in any of vLLM's ways but not shortened."""
    values = []
    for place, argument in enumerate(args):
        word, equals, value = argument.partition("=")
        if _spelled(word) == option:
            values.append(value if equals else args[place + 1] if place + 1 < len(args) else "")
    return values


def _check_option(word: str, argument: str, following: str | None, allow_remote_code: bool) -> None:
    name = _spelled(word)
    inner = word.partition(".")[2].rstrip("+")
    if inner and "=" not in argument and (following is None or following.startswith("--")):
        # vLLM would take the next word, which may be an option of ours, as this one's value.
        raise RequestError(f"Engine argument {word} has no value.", f"Write {word}=VALUE.")
    _refuse_own(word, name)
    if allow_remote_code:
        return
    if name in CODE or (name not in _WHOLE and any(code.startswith(name) for code in CODE)):
        _refuse_code(word)
    value = argument.partition("=")[2] if "=" in argument else following
    if inner:
        _check_field(inner.replace("-", "_"), value or "", word)
    for option, known in (("--load-format", LOAD_FORMATS), ("--distributed-executor-backend", _EXECUTORS)):
        if len(name) > 3 and option.startswith(name) and value is not None and value not in known:
            _refuse_code(f"{word} {value}")


def _refuse_own(word: str, name: str) -> None:
    for candidate in (name, _without_no(name)):
        if candidate in OWN:
            _refuse(word, OWN[candidate])
    if name in _WHOLE or not name.startswith("--"):
        return
    for own, reason in OWN.items():
        if own.startswith(name):
            _refuse(word, f"It is short for {own}. {reason}")
        if name.startswith("--no-") and own.startswith(_without_no(name)):
            _refuse(word, f"It is short for --no-{own[2:]}. {reason}")


def _spelled(word: str) -> str:
    """The long name of an option as argparse will see it: dashes, no dotted key."""
    name = word.partition(".")[0]
    if name.startswith("--"):
        return "--" + name[2:].replace("_", "-")
    # argparse reads -n2 as -n 2; no other short option of vLLM begins with these.
    return _SHORT.get(name) or _SHORT.get(name[:2], name)


def _without_no(name: str) -> str:
    return f"--{name[5:]}" if name.startswith("--no-") else name


def _check_value(value: str, allow_remote_code: bool) -> None:
    if allow_remote_code:
        return
    if not value.lstrip().startswith(("{", "[")):
        if _PYTHON_FILE.fullmatch(value):
            _refuse_code(value)
        return
    try:
        content: object = json.loads(value)
    except ValueError:
        return  # vLLM refuses it too
    for key, text in _strings(content, ""):
        _check_field(key, text, f'"{key}" in {value[:60]}')


def _check_field(key: str, text: str, shown: str) -> None:
    """Look at one field of a structured option; most of these can name a class somewhere."""
    last = key.rpartition(".")[2]
    if f"--{last.replace('_', '-')}" in CODE or last.endswith(("module_path", "plugin", "_cls")):
        _refuse_code(shown)
    if last == "load_format" and text and text not in LOAD_FORMATS:
        _refuse_code(f"{shown} {text}")
    if _PYTHON_FILE.fullmatch(text) or (_PYTHON_NAME.fullmatch(text) and not _HARMLESS_NAME.fullmatch(text)):
        _refuse_code(f"{shown} {text}")


def _strings(content: object, key: str) -> Iterator[tuple[str, str]]:
    """Every text in a JSON value with the nearest key above it, and every key."""
    if isinstance(content, dict):
        for name, inner in content.items():
            yield str(name).replace("-", "_"), ""
            yield from _strings(inner, str(name).replace("-", "_"))
    elif isinstance(content, list):
        for inner in content:
            yield from _strings(inner, key)
    elif isinstance(content, str):
        yield key, content


def _refuse(word: str, reason: str) -> NoReturn:
    raise RequestError(f"Engine argument {word} is not yours to set. {reason}.", "Leave it out.")


def _refuse_code(shown: str) -> NoReturn:
    raise RequestError(
        f"Engine argument {shown} would load Python code from outside vLLM, which this site does not allow.",
        "Leave it out, or ask the site to set allow.trust_remote_code.",
    )
