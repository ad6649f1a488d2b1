"""Code to paste: the same question, or the same sound, to a session's endpoint in the languages people use.

Pure text, for the pages and for the card in Open OnDemand. The key is never part of it: the code reads
OPENAI_API_KEY from the environment, and `key_command` fills that from the session's own file.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass

QUESTION = "What is the capital of France?"
SOUND = "interview.mp3"


@dataclass(frozen=True, slots=True)
class Snippet:
    """One language: `label` for people, `language` for a highlighter, `needs` is what to install first."""

    label: str
    language: str
    needs: str
    code: str


def key_command(key_file: str) -> str:
    """The shell line that puts the key into the environment without showing it."""
    return f'export OPENAI_API_KEY="$(cat {shlex.quote(key_file)})"'


def snippets(base_url: str, model: str, *, system: str = "") -> tuple[Snippet, ...]:
    """Python, curl, JavaScript and R for the model `model` at `base_url` (which ends in /v1)."""
    return (
        Snippet("Python", "python", "pip install openai", _python(base_url, model, system)),
        Snippet("curl", "shell", "", _curl(base_url, model, system)),
        Snippet("JavaScript", "javascript", "", _javascript(base_url, model, system)),
        Snippet("R", "r", 'install.packages("httr2")', _r(base_url, model, system)),
    )


def audio_snippets(base_url: str, model: str) -> tuple[Snippet, ...]:
    """The same for a Whisper model: each writes what is said in the file `interview.mp3`."""
    return (
        Snippet("Python", "python", "pip install openai", _python_audio(base_url, model)),
        Snippet("curl", "shell", "", _curl_audio(base_url, model)),
        Snippet("JavaScript", "javascript", "", _javascript_audio(base_url, model)),
        Snippet("R", "r", 'install.packages("httr2")', _r_audio(base_url, model)),
    )


def _turns(system: str) -> list[dict[str, str]]:
    said = [{"role": "system", "content": system}] if system else []
    return [*said, {"role": "user", "content": QUESTION}]


def _string(text: str) -> str:
    """A literal that Python, JavaScript and R read alike; their escapes beyond ASCII differ, so it has none."""
    return json.dumps(text, ensure_ascii=False)


def _python(base_url: str, model: str, system: str) -> str:
    turns = "".join(
        f'        {{"role": {_string(turn["role"])}, "content": {_string(turn["content"])}}},\n'
        for turn in _turns(system)
    )
    return (
        "from openai import OpenAI\n\n"
        "# The key comes from OPENAI_API_KEY.\n"
        f"client = OpenAI(base_url={_string(base_url)})\n"
        "answer = client.chat.completions.create(\n"
        f"    model={_string(model)},\n"
        f"    messages=[\n{turns}    ],\n"
        ")\n"
        "print(answer.choices[0].message.content)\n"
    )


def _curl(base_url: str, model: str, system: str) -> str:
    body = json.dumps({"model": model, "messages": _turns(system)}, indent=2, ensure_ascii=False)
    # The header comes by standard input: as an argument the key would be seen by everybody on the machine in `ps`.
    return (
        "printf 'Authorization: Bearer %s' \"$OPENAI_API_KEY\" |\n"
        f"curl --silent --show-error {shlex.quote(base_url + '/chat/completions')} \\\n"
        "  -H @- \\\n"
        "  -H 'Content-Type: application/json' \\\n"
        f"  -d {shlex.quote(body)}\n"
    )


def _javascript(base_url: str, model: str, system: str) -> str:
    turns = "".join(
        f"      {{ role: {_string(turn['role'])}, content: {_string(turn['content'])} }},\n"
        for turn in _turns(system)
    )
    # fetch is part of the language's platform everywhere; a package would first have to be installed.
    return (
        "// Save as chat.mjs and run: node chat.mjs (Node 18 or newer, no package needed).\n"
        f"const url = {_string(base_url + '/chat/completions')};\n"
        "const answer = await fetch(url, {\n"
        '  method: "POST",\n'
        "  headers: {\n"
        '    "Content-Type": "application/json",\n'
        "    Authorization: `Bearer ${process.env.OPENAI_API_KEY}`,\n"
        "  },\n"
        "  body: JSON.stringify({\n"
        f"    model: {_string(model)},\n"
        f"    messages: [\n{turns}    ],\n"
        "  }),\n"
        "});\n"
        "if (!answer.ok) throw new Error(await answer.text());\n"
        "console.log((await answer.json()).choices[0].message.content);\n"
    )


def _r(base_url: str, model: str, system: str) -> str:
    turns = ",\n".join(
        f"      list(role = {_string(turn['role'])}, content = {_string(turn['content'])})"
        for turn in _turns(system)
    )
    return (
        "library(httr2)\n\n"
        f"answer <- request({_string(base_url + '/chat/completions')}) |>\n"
        '  req_auth_bearer_token(Sys.getenv("OPENAI_API_KEY")) |>\n'
        "  req_body_json(list(\n"
        f"    model = {_string(model)},\n"
        f"    messages = list(\n{turns}\n    )\n"
        "  )) |>\n"
        "  req_error(body = \\(response) resp_body_string(response)) |>\n"
        "  req_perform() |>\n"
        "  resp_body_json()\n"
        "cat(answer$choices[[1]]$message$content)\n"
    )


def _python_audio(base_url: str, model: str) -> str:
    return (
        "from openai import OpenAI\n\n"
        "# The key comes from OPENAI_API_KEY. An hour of sound may take minutes: no time limit.\n"
        f"client = OpenAI(base_url={_string(base_url)}, timeout=None)\n"
        f'with open({_string(SOUND)}, "rb") as sound:\n'
        "    transcript = client.audio.transcriptions.create(\n"
        f"        model={_string(model)},\n"
        "        file=sound,\n"
        "    )\n"
        "print(transcript.text)\n"
    )


def _curl_audio(base_url: str, model: str) -> str:
    # --form would read a file for a name that begins with @ or <.
    return (
        "printf 'Authorization: Bearer %s' \"$OPENAI_API_KEY\" |\n"
        f"curl --silent --show-error {shlex.quote(base_url + '/audio/transcriptions')} \\\n"
        "  -H @- \\\n"
        f"  --form-string {shlex.quote(f'model={model}')} \\\n"
        "  --form-string response_format=srt \\\n"
        f"  --form file=@{SOUND}\n"
    )


def _javascript_audio(base_url: str, model: str) -> str:
    # Streamed, since Node's fetch gives up an answer that has not begun after five minutes.
    return (
        "// Save as transcribe.mjs and run: node transcribe.mjs (Node 18 or newer, no package needed).\n"
        'import { readFile } from "node:fs/promises";\n\n'
        "const form = new FormData();\n"
        f'form.append("model", {_string(model)});\n'
        'form.append("stream", "true");\n'
        f'form.append("file", new Blob([await readFile({_string(SOUND)})]), {_string(SOUND)});\n'
        f"const answer = await fetch({_string(base_url + '/audio/transcriptions')}, {{\n"
        '  method: "POST",\n'
        "  headers: { Authorization: `Bearer ${process.env.OPENAI_API_KEY}` },\n"
        "  body: form,\n"
        "});\n"
        "if (!answer.ok) throw new Error(await answer.text());\n"
        'let rest = "";\n'
        "for await (const piece of answer.body.pipeThrough(new TextDecoderStream())) {\n"
        '  const lines = (rest + piece).split("\\n");\n'
        "  rest = lines.pop();\n"
        '  for (const line of lines.filter((line) => line.startsWith("data: {"))) {\n'
        "    const event = JSON.parse(line.slice(6));\n"
        "    if (event.error) throw new Error(event.error.message);\n"
        '    if (event.type === "transcript.text.delta") process.stdout.write(event.delta);\n'
        "  }\n"
        "}\n"
    )


def _r_audio(base_url: str, model: str) -> str:
    return (
        "library(httr2)\n\n"
        f"answer <- request({_string(base_url + '/audio/transcriptions')}) |>\n"
        '  req_auth_bearer_token(Sys.getenv("OPENAI_API_KEY")) |>\n'
        "  req_body_multipart(\n"
        f"    model = {_string(model)},\n"
        f"    file = curl::form_file({_string(SOUND)})\n"
        "  ) |>\n"
        "  req_error(body = \\(response) resp_body_string(response)) |>\n"
        "  req_perform() |>\n"
        "  resp_body_json()\n"
        "cat(answer$text)\n"
    )
