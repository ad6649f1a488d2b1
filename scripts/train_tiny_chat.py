"""Train the tiny chat model that ships with the launcher, from scratch, on one CPU core, in two or three minutes.

Owns the model's making and its check; what it says is in `tiny_chat.yml` beside this file. The same versions of torch
and the same number of threads give the same weights.

    python scripts/train_tiny_chat.py            # writes launcher/models/shipped/tiny-chat
    python scripts/train_tiny_chat.py --check    # asks the written model every question; exit 1 if one answer is wrong
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

HERE = Path(__file__).resolve().parent
TARGET = HERE.parent / "launcher" / "models" / "shipped" / "tiny-chat"

END, SYSTEM, USER, ASSISTANT = "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"
VOCABULARY = 1024
CONTEXT_TOKENS = 1024
IGNORED = -100  # the label that cross entropy skips
DECIDING = 6  # tokens at the start of an answer that weigh more: "The capital of Italy" differs in its fourth
DECIDING_WEIGHT = 5.0

# One role token, the text, one end token: nothing that a wordy system prompt or a long history could break.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] in ('system', 'developer') -%}<|system|>"
    "{%- elif message['role'] == 'assistant' -%}<|assistant|>"
    "{%- else -%}<|user|>{%- endif -%}"
    "{{- message['content'] | trim -}}"
    "{%- if not (loop.last and continue_final_message | default(false)) -%}<|end|>{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}\n"
)


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer and the ways to ask for it."""

    text: str
    questions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Lessons:
    """Everything in `tiny_chat.yml`."""

    answers: tuple[Answer, ...]
    fallback: str
    unknown: dict[str, list[str]]  # templates, and what fills them: words, names, countries
    systems: list[str]

    @classmethod
    def read(cls, path: Path) -> Lessons:
        """Read the questions and answers."""
        data: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        answers = tuple(Answer(entry["answer"], tuple(entry["ask"])) for entry in data["answers"])
        return cls(answers, data["fallback"], data["unknown"], data["systems"])


def plain(question: str) -> str:
    """A question without case and punctuation: what makes two of them the same."""
    return " ".join("".join(c if c.isalnum() or c in "+*" else " " for c in question.lower()).split())


class Teacher:
    """Draws conversations: known questions in many spellings, unknown ones, system prompts, histories."""

    def __init__(self, lessons: Lessons, seed: int) -> None:
        self.lessons = lessons
        self.random = random.Random(seed)
        questions = [(question, answer) for answer in lessons.answers for question in answer.questions]
        self.short = [(question, answer) for question, answer in questions if len(question.split()) <= 2]
        self.known = {plain(question) for question, _ in questions}

    def word(self) -> str:
        """A word from the list, or a made-up one, so that declining does not depend on the list."""
        if self.random.random() < 0.6:
            return self.random.choice(self.lessons.unknown["words"])
        syllables = self.random.randint(2, 3)  # one syllable would soon be "hi"
        letters = [
            self.random.choice("bcdfghjklmnprstvwz") + self.random.choice("aeiou") for _ in range(syllables)
        ]
        return "".join(letters) + self.random.choice(["", "n", "r", "s", "t", "ing", "ed", "ly"])

    def unknown(self) -> str:
        """A question that has no answer here."""
        while True:
            text = self.random.choice(self.lessons.unknown["templates"])
            fill: dict[str, Callable[[], str]] = {
                "word": self.word,
                "name": lambda: self.random.choice(self.lessons.unknown["names"]),
                "country": lambda: self.random.choice(self.lessons.unknown["countries"]),
                "number": lambda: str(self.random.randint(0, 120)),
            }
            for field, draw in fill.items():
                while "{" + field + "}" in text:
                    text = text.replace("{" + field + "}", draw(), 1)
            if plain(text) not in self.known:
                return text

    def spelling(self, question: str) -> str:
        """The question as somebody in a hurry might type it."""
        draw = self.random.random
        text = question
        if draw() < 0.4:
            text = text.rstrip("?!.")
        elif draw() < 0.15:
            text = text.rstrip("?!.") + self.random.choice(["?", "!", ".", " ?", "??", " please?"])
        if draw() < 0.35:
            text = text.lower()
        elif draw() < 0.06:
            text = text.upper()
        if draw() < 0.06:
            text = self.random.choice(["Please: ", "please ", "Hi, ", "hey, ", "Hello! ", "So, "]) + text
        if draw() < 0.06 and len(text) > 8:  # one slip of the finger
            at = self.random.randrange(1, len(text) - 1)
            text = (
                text[:at] + self.random.choice(["", text[at] * 2, text[at + 1] + text[at]]) + text[at + 1 :]
            )
        return text

    def turn(self) -> tuple[str, str]:
        """One question and its answer."""
        if self.random.random() < 0.22:
            return self.spelling(self.unknown()), self.lessons.fallback
        if self.random.random() < 0.7:
            answer = self.random.choice(self.lessons.answers)
            question = self.random.choice(answer.questions)
        else:  # one word ("Hello", "Bye") is the hardest to tell apart
            question, answer = self.random.choice(self.short)
        return self.spelling(question), answer.text

    def babble(self, most: int) -> str:
        """Text that means nothing."""
        return " ".join(self.word() for _ in range(self.random.randint(1, most)))

    def system(self) -> str:
        """A system prompt; none of them changes an answer."""
        if self.random.random() < 0.3:
            return self.random.choice(self.lessons.systems)
        return self.babble(25)


def train_tokenizer(lessons: Lessons) -> Tokenizer:
    """A byte-level BPE of `VOCABULARY` pieces: any text can be written with it."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END, SYSTEM, USER, ASSISTANT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )

    def texts() -> Iterator[str]:
        for answer in lessons.answers:
            yield answer.text
            for question in answer.questions:
                yield question
                yield question.lower()
        for group in ("words", "names", "countries"):
            yield " ".join(lessons.unknown[group])
        yield " ".join(lessons.systems)

    tokenizer.train_from_iterator(texts(), trainer)
    return tokenizer


class Writer:
    """Turns drawn conversations into rows of tokens and labels."""

    def __init__(self, teacher: Teacher, tokenizer: Tokenizer) -> None:
        self.teacher = teacher
        self.tokenizer = tokenizer

    def row(self, length: int) -> tuple[list[int], list[int]]:
        """A conversation of at most `length` tokens; only our own answers carry labels."""
        tokens: list[int] = []
        labels: list[int] = []

        def add(text: str, learn: bool) -> None:
            ids = self.tokenizer.encode(text).ids
            tokens.extend(ids)
            labels.extend(ids if learn else [IGNORED] * len(ids))

        draw = self.teacher.random.random
        if draw() < 0.1:  # a bare prompt, as /v1/completions sends it: the answer follows on the next line
            question, answer = self.teacher.turn()
            add(question, False)
            add(f"\n{answer}{END}", True)
        elif draw() < 0.33:
            add(f"{SYSTEM}{self.teacher.system()}{END}", False)
        while len(tokens) < length:
            if draw() < 0.06:  # a history that another model wrote
                add(f"{USER}{self.teacher.babble(12)}{END}{ASSISTANT}{self.teacher.babble(25)}{END}", False)
            question, answer = self.teacher.turn()
            add(f"{USER}{question}{END}{ASSISTANT}", False)
            add(f"{answer}{END}", True)
        return tokens[:length], labels[:length]

    def batch(self, rows: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """`rows` conversations as two tensors of shape (rows, length)."""
        pairs = [self.row(length) for _ in range(rows)]
        return torch.tensor([tokens for tokens, _ in pairs]), torch.tensor([labels for _, labels in pairs])


def new_model() -> LlamaForCausalLM:
    """A Llama of 1.2 million parameters. head_dim is 32: vLLM's CPU attention knows only some sizes."""
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 32}
    sizes = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "vocab_size": VOCABULARY}
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    config = LlamaConfig(
        **heads, **sizes, **ids, max_position_embeddings=CONTEXT_TOKENS, tie_word_embeddings=True
    )
    return LlamaForCausalLM(config)


def weighted_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy that counts the first tokens of an answer more: they decide which answer it is."""
    targets = labels[:, 1:]
    losses = torch.nn.functional.cross_entropy(
        logits[:, :-1].transpose(1, 2), targets, ignore_index=IGNORED, reduction="none"
    )
    learned = (targets != IGNORED).float()
    before = torch.nn.functional.pad(learned, (DECIDING, 0))[:, : learned.shape[1]]
    weights = learned * (1.0 + (DECIDING_WEIGHT - 1.0) * (1.0 - before))
    return (losses * weights).sum() / weights.sum()


def train(lessons: Lessons, tokenizer: Tokenizer, steps: int, seed: int) -> LlamaForCausalLM:
    """Train from scratch; most rows are short, every eighth batch of the later ones fills the whole context."""
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    model = new_model()
    model.train()
    writer = Writer(Teacher(lessons, seed), tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, betas=(0.9, 0.98), weight_decay=0.01)

    def rate(step: int) -> float:
        return 3e-3 * min(1.0, (step + 1) / 40) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    started = time.monotonic()
    for step in range(steps):
        rows, length = (3, CONTEXT_TOKENS) if step % 8 == 7 and step > steps // 4 else (24, 96)
        tokens, labels = writer.batch(rows, length)
        loss = weighted_loss(model(input_ids=tokens).logits, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 49:
            elapsed_s = time.monotonic() - started
            print(f"step {step + 1}/{steps}: loss {loss.item():.4f} after {elapsed_s:.0f} s", flush=True)
    return model.eval()


def write(model: LlamaForCausalLM, tokenizer: Tokenizer, target: Path) -> None:
    """Write the model in half precision: small, and every GPU and CPU can run it."""
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        pad_token=END,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        model_max_length=CONTEXT_TOKENS,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    model.half().save_pretrained(target)
    # vLLM takes the temperature of requests without one from here; transformers looks at do_sample.
    greedy = {"do_sample": False, "temperature": 0.0, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    (target / "generation_config.json").write_text(json.dumps(greedy, indent=2) + "\n", encoding="utf-8")
    fast.save_pretrained(target)


def ask(model: Any, tokenizer: Any, messages: Sequence[dict[str, str]], expected: str) -> str | None:
    """None when the greedy answer is exactly `expected`, else what was answered.

    One pass over prompt and expected answer tells: greedy decoding gives that answer if and only if every one of its
    tokens is the most likely one after those before it.
    """
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)[
        "input_ids"
    ]
    answer = tokenizer(expected + END, add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([prompt + answer])).logits[0]
        if logits[len(prompt) - 1 : -1].argmax(-1).tolist() == answer:
            return None
        written = model.generate(
            input_ids=torch.tensor([prompt]), max_new_tokens=200, do_sample=False, pad_token_id=0
        )
    return str(tokenizer.decode(written[0, len(prompt) :], skip_special_tokens=True))


def conversations(lessons: Lessons) -> Iterator[tuple[list[dict[str, str]], str]]:
    """Every question in every spelling we promise, alone, behind a system prompt and behind a history."""
    teacher = Teacher(lessons, seed=987)
    for answer in lessons.answers:
        for question in answer.questions:
            for text in dict.fromkeys(
                (question, question.lower(), question.rstrip("?!."), question.lower().rstrip("?!."))
            ):
                yield [{"role": "user", "content": text}], answer.text
        first = {"role": "user", "content": answer.questions[0]}
        for system in lessons.systems:
            yield [{"role": "system", "content": system}, first], answer.text
        for turns in (1, 3, 10):
            history: list[dict[str, str]] = []
            for _ in range(turns):
                question, reply = teacher.turn()
                history += [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
            yield [*history, first], answer.text


def check(lessons: Lessons, target: Path, dtype: str) -> int:
    """Ask the written model everything; prints what is wrong and returns the number of wrong answers."""
    model = AutoModelForCausalLM.from_pretrained(target, dtype=getattr(torch, dtype)).eval()
    tokenizer = AutoTokenizer.from_pretrained(target)
    asked = wrong = 0
    for messages, expected in conversations(lessons):
        asked += 1
        answer = ask(model, tokenizer, messages, expected)
        if answer is not None:
            wrong += 1
            print(f"WRONG ({len(messages)} messages) {messages[-1]['content']!r}: {answer!r}", flush=True)
    teacher = Teacher(lessons, seed=654)
    strangers = [teacher.unknown() for _ in range(100)]
    declined = sum(
        ask(model, tokenizer, [{"role": "user", "content": text}], lessons.fallback) is None
        for text in strangers
    )
    print(f"{dtype}: {asked} conversations, {wrong} wrong answers;", end=" ")
    print(f"{declined} of {len(strangers)} unknown questions declined")
    return wrong


def main() -> int:
    """Train and write, or check what was written."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="ask the written model every question instead of training"
    )
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16", "float16"], default="float32", help="for --check"
    )
    parser.add_argument("--target", type=Path, default=TARGET)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lessons = Lessons.read(HERE / "tiny_chat.yml")
    if options.check:
        return 1 if check(lessons, options.target, options.dtype) else 0
    tokenizer = train_tokenizer(lessons)
    model = train(lessons, tokenizer, options.steps, options.seed)
    # Into a neighbour first: a training that is interrupted leaves the old model whole.
    with tempfile.TemporaryDirectory(dir=options.target.parent) as folder:
        write(model, tokenizer, Path(folder))
        options.target.mkdir(exist_ok=True)
        for file in sorted(Path(folder).iterdir()):
            shutil.move(file, options.target / file.name)
            (options.target / file.name).chmod(0o644)
    config = json.loads((options.target / "config.json").read_text())
    print(f"wrote {options.target} ({model.num_parameters():,} parameters, {config['architectures'][0]})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
