"""What the command line says of arguments that it does not understand."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from launcher.cli import main


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("launch x --hour 3", 'Unknown option "--hour". Did you mean --hours? See: launcher launch --help'),
        ("keys new x --name a --nmae b", 'Unknown option "--nmae". Did you mean --name or --owner or --model? '
         "See: launcher keys new --help"),
        ("--foo status", 'Unknown option "--foo". See: launcher --help'),
        ("--hlep", 'Unknown option "--hlep". Did you mean --help? See: launcher --help'),
        ("launch x y", '"y" is one word too many. See: launcher launch --help'),
        ("lunch", 'Unknown command "lunch". Did you mean launch? See: launcher --help'),
        ("serv", 'Unknown command "serv". See: launcher --help'),
        ("launch x --hours abc", '--hours must be a number, not "abc". See: launcher launch --help'),
        ("launch x --gpus 1.5", '--gpus must be a whole number, not "1.5". See: launcher launch --help'),
        ("logs x --of all", '--of must be one of engine, gateway, page, job, nodes, engine-1, not "all". '
         'See: launcher logs --help'),
        ("logs x --of engine-0", '--of must be one of engine, gateway, page, job, nodes, engine-1, not "engine-0". '
         'See: launcher logs --help'),
        ("launch", "The following arguments are required: MODEL. See: launcher launch --help"),
    ],
)  # fmt: skip
def test_a_slip_is_one_sentence_on_standard_error_or_json(
    line: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line.split()) == 2
    assert capsys.readouterr() == ("", f"launcher: {says}\n")
    assert main([*line.split(), "--json"]) == 2
    printed = capsys.readouterr()
    error = json.loads(printed.out)["error"]
    assert printed.err == ""
    assert error["kind"] == "request"
    if not line.startswith("--"):
        assert f"{error['message']} {error['hint']}" == says


def test_what_other_programs_call_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    for words, begins in (
        (["help"], "usage: launcher "),
        (["help", "launch"], "usage: launcher launch "),
        (["version"], "launcher 0."),
    ):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert not ended.value.code
        assert capsys.readouterr().out.startswith(begins)


def test_the_arguments_of_the_engine_are_in_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["launch", "--help"])
    assert "MODEL [KEY=VALUE ...] [-- ENGINE_ARGUMENT ...]" in capsys.readouterr().out


# Ctrl-C at the moment when the command's own module is loaded, which is most of what a short command does.
INTERRUPTED = """
import signal, sys
sys.addaudithook(lambda event, words: signal.raise_signal(signal.SIGINT)
    if event == "import" and words[0] == "launcher.api" else None)
sys.argv[1:] = ["wait", "x"]
from launcher.cli import main
sys.exit(main())
"""


def test_ctrl_c_before_a_command_has_begun_is_no_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("where", [">/dev/full", "--json >/dev/full", ">&-", "nosuch >&-", "nosuch 2>&-"])
def test_an_output_that_takes_nothing_is_no_traceback(where: str) -> None:
    line = f'"$0" -m launcher status {where}'
    done = subprocess.run(["bash", "-c", line, sys.executable], capture_output=True, text=True, check=False)
    full = "full" in where
    assert done.returncode == (8 if full else 6 if "nosuch" in where else 0)
    assert done.stdout == ""
    assert done.stderr.count("\n") <= 1
    assert ("What it writes to: No space left on device." in done.stderr) is full
