"""`launcher batch chat`: a folder of texts and a prompt in, an answer for each text out."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from launcher.api import Launcher
from launcher.cli.parser import Commands, add_command, from_zero, number, whole
from launcher.errors import LauncherError, RequestError

EXAMPLES = """\
examples:
  launcher batch chat --prompt-file translate.txt --input-dir letters -o answers --model org/model
  launcher batch chat --prompt-file p.txt --input-dir letters -o answers --session tiny-chat-3f9a2c1b

The prompt stands before each text, or has {text} where the text belongs. What is answered is passed over when the same
command runs again; a changed text is answered anew, and an answer that you corrected is never replaced.
"""


def options(commands: Commands) -> None:
    """Add the command."""
    from launcher.cli.batch import add_sending

    chat = add_command(commands, "chat", "answer a prompt for each text of a folder", EXAMPLES)
    chat.add_argument("--prompt-file", metavar="P", required=True, help="the prompt")
    chat.add_argument("--input-dir", metavar="D", required=True, help="the folder of texts")
    chat.add_argument(
        "-o", "--output-dir", metavar="DIR", required=True, help="where the answers go, in the same tree"
    )
    chat.add_argument("--max-tokens", type=whole, metavar="N", help="the longest answer")
    chat.add_argument("--temperature", type=from_zero(number), metavar="T", help="0: the likeliest words")
    add_sending(chat, model="the model that answers; left out only with --session, which has one")


def run(arguments: argparse.Namespace) -> int:
    """Answer them; 0 when each text has its answer."""
    from launcher.api.batch_runs import begin
    from launcher.batch.texts import Texts
    from launcher.cli.bars import Bars
    from launcher.cli.batch import carried, sending

    source, target = os.path.abspath(arguments.input_dir), os.path.abspath(arguments.output_dir)
    if not os.path.isdir(source):
        raise RequestError(f"{source} is no folder.", "Name a folder of text files with --input-dir.")
    if source == target or source.startswith(f"{target}{os.sep}"):
        raise RequestError("The answers may not lie where the texts are.", "Name another folder with -o.")
    try:
        prompt = Path(arguments.prompt_file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise RequestError(
            f"{arguments.prompt_file} cannot be read as a text.", "Name a UTF-8 file."
        ) from error
    launcher = Launcher()
    if arguments.model is None and arguments.session is None and arguments.url is None:
        raise RequestError("Which model shall answer?", "Add --model, --session or --url.")
    model = arguments.model or (
        launcher.session(arguments.session).plan.model.served_name if arguments.session else None
    )
    if model is None:
        raise RequestError("An address may serve several models.", "Add --model.")
    body: dict[str, Any] = {"model": model}
    for name in ("max_tokens", "temperature"):
        if (value := getattr(arguments, name)) is not None:
            body[name] = value
    texts = Texts(source, target)
    bars = Bars(quiet=arguments.json)
    left_out = texts.write_requests(prompt, body)
    for sentence in left_out:
        bars.say(sentence)
    batch = begin(launcher, texts.requests, texts.answers, texts=texts, **sending(arguments))
    code = carried(batch, arguments)
    return code or (LauncherError.exit_code if left_out else 0)
