"""Options of the engine among the launcher's own: which are passed on, unchanged and in their order."""

from __future__ import annotations

import argparse

import pytest

from launcher.cli import main
from launcher.cli.parser import parser
from launcher.cli.words import UnknownOptionError, divided


def own(command: str = "launch") -> argparse.ArgumentParser:
    commands = next(a for a in parser(command)._actions if isinstance(a, argparse._SubParsersAction))
    found: argparse.ArgumentParser = commands.choices[command]
    return found


# `vec-inf launch --help` of vec-inf 0.9.0, and `blackfish run --help` with its two tasks.
VEC_INF = """
--model-family --model-variant --partition --resource-type --num-nodes --gpus-per-node --cpus-per-task --mem-per-node
--account -A --work-dir -D --qos --exclude --nodelist --bind --time --venv --log-dir --model-weights-parent-dir
--hf-model --engine --vllm-args --sglang-args --json-mode --env --config
"""
BLACKFISH = """
--time --ntasks-per-node --mem --gres --partition --constraint --account --profile -p --mount -m --grace-period -g
--image-ref --name -n --revision -r --port --dry-run
"""


@pytest.mark.parametrize(("command", "theirs"), [("launch", VEC_INF), ("run", BLACKFISH)])
def test_every_option_of_theirs_is_one_of_ours(command: str, theirs: str) -> None:
    """vec-inf 2: every option by its name; Blackfish 1: the options of its own help."""
    assert set(theirs.split()) <= set(own(command)._option_string_actions)


@pytest.mark.parametrize(
    ("line", "ours", "engine"),
    [
        ("m --max-num-seqs 16 --hours 2", "--hours 2 m", "--max-num-seqs 16"),
        ("--max_num_seqs=16 m", "m", "--max_num_seqs=16"),
        ("--enable-prefix-caching m --wait", "--wait m", "--enable-prefix-caching"),
        ("m --no-enable-prefix-caching", "m", "--no-enable-prefix-caching"),
        ("m -tp 2 -q fp8 -O3 -O 2", "m", "-tp 2 -q fp8 -O3 -O 2"),
        ("m --lora-modules a=/x b=/y --hours 2", "--hours 2 m", "--lora-modules a=/x b=/y"),
        ("m --compilation-config.mode 3", "m", "--compilation-config.mode 3"),
        ("m --seed -1", "m", "--seed -1"),
        ("m --max-model-len 16 --revision r", "--max-model-len 16 --revision r m", ""),  # ours
        ("m --beam-size 3", "m", "--beam-size 3"),
        ("m --start-delay-s 3 hours=2", "m hours=2", "--start-delay-s 3"),
        ("m --vllm-args --seed=1", "--vllm-args=--seed=1 m", ""),
        ("m --vllm-args --trust-remote-code", "--vllm-args=--trust-remote-code m", ""),
        ("-Achem m", "-Achem m", ""),
        ("m -- --time", "m -- --time", ""),
        ("m --seed", "m", "--seed"),
        ("-", "-", ""),
    ],
)
def test_each_word_finds_its_owner(line: str, ours: str, engine: str) -> None:
    """Blackfish 1: options that are not the launcher's pass to the engine unchanged."""
    words, passed = divided(line.split(), own())
    assert (" ".join(words), " ".join(passed)) == (ours, engine)


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("--partion", "Did you mean --partition"),
        ("--max-num-seq", "Did you mean --max-num-seqs"),
        ("--zzzzzz", None),
        ("-z", None),
    ],
)
def test_what_nobody_knows_is_an_error_with_near_ones(word: str, near: str | None) -> None:
    with pytest.raises(UnknownOptionError) as caught:
        divided(["m", word, "x"], own())
    assert (caught.value.near or "").startswith(near or "")
    assert (caught.value.near is None) == (near is None)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("launch tiny-chat --name", "--name needs a value."),  # and does not take the model for it
        ("launch tiny-chat --profile --hours 3", "--profile needs a value."),
        ("launch tiny-chat --wait=3", '--wait takes no value, such as "3".'),
        ("batch-launch a --hours", "--hours needs a value."),
        ("metrics a --once -f", "-f is not allowed with --once."),
        ("connect a printenv X", "A command stands behind two dashes: launcher connect ID -- COMMAND."),
        ("stop a b", '"b" is one word too many. See:'),
        ("environments lss", 'ls must be one of ls, list, not "lss".'),
        ("--debug status", "--debug stands behind the command, as in: launcher status --debug."),
        ("logs a -n -5", '-n must be 0 or more, not "-5".'),
        ("wait a --timeout nan", '--timeout must be 0 or more, not "nan".'),
    ],
)
def test_a_word_too_few_or_too_many_is_told(line: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "operands"),
    [
        ("batch-launch a --hours 2 b", ["a", "b"]),
        ("wait a --timeout 3 b", ["a", "b"]),
        ("cleanup a --dry-run b", ["a", "b"]),
        ("transcribe a --model m b --words", ["a", "b"]),
        ("transcribe a --words -- -b.mp3", ["a", "-b.mp3"]),
    ],
)
def test_options_may_stand_between_the_operands_of_any_command(line: str, operands: list[str]) -> None:
    given = vars(parser(line.split()[0]).parse_args(line.split()))
    assert next(given[name] for name in ("models", "sessions", "paths") if name in given) == operands


def test_what_stands_behind_two_dashes_is_the_engines_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["launch", "simulated", "--tokens", "1", "--dry-run", "--json", "--", "--answer", "--hours"])
        == 2
    )
    assert "Simulated engine" in capsys.readouterr().out  # its parser's own word
    assert main(["launch", "simulated", "--tokens", "1", "--dry-run", "--json", "--", "--answer", "a b"]) == 0
    assert '"engine_args": ["--tokens", "1", "--answer", "a b"]' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        ("run --gres 0 --time 00:30:00 text-generation simulated --api-key sealsaretasty --tokens 2 --dry-run", 0,
         "--api-key means nothing here. Each session makes its own key; launcher keys new makes further ones."),
        ("run -p local text-generation simulated -p 8081 -n a-name -r main --dry-run", 0, "--port means nothing here."),
        ("run --mem 16 --ntasks-per-node 8 --grace-period 180 speech-recognition tiny-whisper --mount /data --dry-run",
         0, "--grace-period means nothing here."),
        ("run text-generation tiny-whisper --dry-run", 2,
         'Model "tiny-whisper" hears speech. Take: launcher run speech-recognition tiny-whisper'),
        ("run speech-recognition tiny-chat --dry-run", 2, "Take: launcher run text-generation tiny-chat"),
        ("run text-genration tiny-chat", 2, "TASK must be one of text-generation, speech-recognition"),
        ("run text-generation", 2, "The following arguments are required: MODEL."),
        ("run --profile local -p local text-generation simulated", 2, "--profile is given twice."),
    ],
)  # fmt: skip
def test_run_takes_what_blackfish_takes(
    line: str, code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Blackfish 1: `run text-generation` and `run speech-recognition` with the options of its own help."""
    assert main(line.split()) == code
    said = capsys.readouterr()
    assert says in said.err
    assert "sealsaretasty" not in said.out + said.err
