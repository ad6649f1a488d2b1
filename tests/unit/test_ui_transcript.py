"""What the chatbot shows of an answer, and what of it goes back to the model."""

from __future__ import annotations

import dataclasses
import json

import pytest

from launcher.ui import transcript
from launcher.ui.client import STOPPED, Reply
from tests.hostile import HOSTILE

DONE = Reply(
    "Paris.", finished="stop", prompt_tokens=9, completion_tokens=21, first_token_s=0.25, elapsed_s=1.25
)


def texts(reply: Reply) -> list[list[str]]:
    return [[part["text"] for part in message["content"]] for message in transcript.answer(reply)]


def test_nothing_yet_shows_nothing() -> None:
    assert transcript.answer(Reply()) == []


def test_counts_stand_under_a_finished_answer() -> None:
    assert texts(DONE) == [
        ["Paris.", "\N{INVISIBLE SEPARATOR}21 tokens · 20 tokens/s · first after 250 ms · 9 in the prompt"]
    ]


def test_no_rate_where_it_cannot_be_measured() -> None:
    burst = dataclasses.replace(DONE, completion_tokens=8, elapsed_s=0.252)
    assert texts(burst)[0][1].endswith("8 tokens · first after 250 ms · 9 in the prompt")


def test_slow_answers_and_limits() -> None:
    slow = Reply(
        "P", finished="length", prompt_tokens=1, completion_tokens=3, first_token_s=4.0, elapsed_s=6.0
    )
    assert texts(slow)[0][1].endswith(
        "3 tokens · 1.0 tokens/s · first after 4.0 s · 1 in the prompt · ended at the token limit"
    )


def test_a_footnote_never_goes_to_the_model() -> None:
    history = [
        transcript.question("Capital?"),
        *transcript.answer(DONE),
        transcript.question("And?"),
        *transcript.answer(Reply(trouble="The engine does not answer.")),
        transcript.question("Again"),
    ]
    assert transcript.messages(history, "  Be brief. ", {}) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Capital?"},
        {"role": "assistant", "content": "Paris."},
        {"role": "user", "content": "And?"},
        {"role": "user", "content": "Again"},
    ]


def test_reasoning_is_folded_and_not_sent_back() -> None:
    thinking = transcript.answer(Reply(reasoning="Hm."))
    assert thinking[0]["metadata"] == {"title": "Reasoning", "status": "pending"}
    shown = transcript.answer(Reply("Paris.", "Hm.", finished="stop"))
    assert shown[0]["metadata"]["status"] == "done"
    assert transcript.messages(shown, "", {}) == [{"role": "assistant", "content": "Paris."}]


@pytest.mark.parametrize(
    ("text", "thought", "said"),
    [
        ("<think>\nHm.\n</think>\n\nParis.", "Hm.", "Paris."),
        ("  <think>Hm.", "Hm.", None),
        ("Hm, so.\n</think>\nParis.", "Hm, so.", "Paris."),
        ("Paris.", None, "Paris."),
        ("Write <think>x</think> so.", None, "Write <think>x</think> so."),
        ("```\n</think>\n```", None, "```\n</think>\n```"),
    ],
)
def test_reasoning_in_tags(text: str, thought: str | None, said: str | None) -> None:
    parts = [message["content"][0]["text"] for message in transcript.answer(Reply(text))]
    assert parts == [part for part in (thought, said) if part is not None]


def test_a_question_about_tags_is_left_alone() -> None:
    asked = [transcript.question("What does <think> do?")]
    assert transcript.messages(asked, "", {})[0]["content"] == "What does <think> do?"


def test_a_stopped_answer_says_so() -> None:
    assert texts(Reply("Par", finished=STOPPED, first_token_s=0.1))[0][1].endswith(
        "stopped · first after 100 ms"
    )
    assert texts(Reply(finished=STOPPED)) == [["", "\N{INVISIBLE SEPARATOR}stopped"]]


def test_counts_go_along_for_the_saved_file() -> None:
    counts = json.loads(transcript.answer(DONE)[-1]["metadata"]["log"])
    assert counts == {
        "prompt_tokens": 9,
        "completion_tokens": 21,
        "tokens_per_s": 20.0,
        "first_token_s": 0.25,
        "finish_reason": "stop",
    }


@pytest.mark.parametrize("text", HOSTILE)
def test_any_question_arrives_unchanged(text: str) -> None:
    assert transcript.said_in(transcript.question(text)) == text


def test_an_engines_message_is_no_markup() -> None:
    footnote = texts(Reply(trouble="<img src=x> *bold*\n[a](http://x)"))[0][-1]
    assert footnote.endswith(r"\<img src=x\> \*bold\* \[a\](http://x)")
