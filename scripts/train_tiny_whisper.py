"""Train the tiny Whisper model that ships with the launcher, from scratch, on one CPU core, in eight or nine minutes.

Owns the training; what the model hears is in `tiny_whisper.yml`, the speech is made by espeak-ng (Debian: espeak-ng).
The same versions of torch and espeak-ng on the same kind of processor give the same weights.

    python -m scripts.train_tiny_whisper            # writes launcher/models/shipped/tiny-whisper
    python -m scripts.train_tiny_whisper --check    # asks the written model fresh speech; exit 1 if it hears too little
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault(
    "OPENBLAS_NUM_THREADS", "1"
)  # for small matrices numpy's threads cost ten times what they save

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from scripts.tiny_whisper_model import (
    decode,
    encode,
    new_model,
    number,
    special_tokens,
    train_tokenizer,
    write,
    write_transformers,
)
from scripts.tiny_whisper_speech import PAUSE_S, POSITIONS_PER_S, Director, Scene, Vocabulary, speakers

HERE = Path(__file__).resolve().parent
TARGET = HERE.parent / "launcher" / "models" / "shipped" / "tiny-whisper"

IGNORED = -100  # the label that has no loss
# Cross-attention heads (layer, head) that are shown where to look: at the next word, and at the word just written.
AHEAD = ((1, 0), (1, 1), (2, 0), (2, 1))
BACK = ((0, 0), (0, 1))
# (rows, positions of 20 ms, most words): the shapes of batches, and from which part of the training on how often each
# is drawn. Whisper's full window of 1500 positions is four times as dear as the others.
SHAPES = ((20, 64, 3), (12, 128, 5), (6, 256, 10), (3, 512, 16), (2, 1500, 24))
COURSE = (
    (0.0, (0.8, 0.2, 0, 0, 0)),
    (0.3, (0.45, 0.35, 0.2, 0, 0)),
    (0.5, (0.33, 0.28, 0.17, 0.11, 0.11)),
    (0.85, (0.2, 0.2, 0.15, 0.15, 0.3)),
)
RATE = 3e-3


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of features and tokens, and what is to be learnt from them."""

    mels: Tensor  # (rows, 80, 2 × positions)
    tokens: Tensor  # (rows, tokens)
    labels: Tensor  # (rows, tokens): the token that follows, or IGNORED
    ahead: Tensor  # (rows, tokens, positions): where the next word is heard, as a distribution, or zeros
    back: Tensor  # the same for the word just written
    heard: Tensor  # (rows, positions): the word that is heard there, counted from 1 over both languages; 0 is none


class Writer:
    """Turns scenes into rows of tokens and labels."""

    def __init__(self, vocabulary: Vocabulary, tokenizer: Tokenizer, director: Director) -> None:
        self.director = director
        self.random = director.random
        self.timed = 0.45  # the share of rows with timestamps
        self.words = {
            language: [tokenizer.encode(f" {word}", add_special_tokens=False).ids for word in words]
            for language, words in vocabulary.words.items()
        }
        self.id = {name: number(tokenizer, name) for name in special_tokens()}
        self.first_time = number(tokenizer, "<|0.00|>")
        # The piece that stands for each number in Batch.heard.
        self.pieces = [self.id["<|nospeech|>"], *(ids[-1] for words in self.words.values() for ids in words)]

    def row(self, scene: Scene, previous: int) -> Row:
        """The scene as a row, behind `previous` tokens of an earlier text."""
        random, ids = self.random, self.id
        translate = random.random() < (0.35 if scene.language == "de" else 0.15)
        words = self.words["en" if translate else scene.language]
        timed = random.random() < self.timed
        row = Row([], [], [])
        if previous:
            row.add(ids["<|startofprev|>"])
            pieces = [p for word in random.integers(len(words), size=previous) for p in words[word]]
            for piece in pieces[:previous]:
                row.add(piece)
        row.add(ids["<|startoftranscript|>"])
        row.add(
            ids[f"<|{scene.language}|>"], learn=ids[f"<|{scene.language}|>" if scene.said else "<|nospeech|>"]
        )
        row.add(ids["<|translate|>" if translate else "<|transcribe|>"])
        if not timed:
            row.add(ids["<|notimestamps|>"])
        for n, spoken in enumerate(scene.said):
            here = (spoken.start_s, spoken.end_s)
            if timed and spoken.start_s - (scene.said[n - 1].end_s if n else -9.0) > PAUSE_S:
                row.write(self.time(spoken.start_s), here)
            for piece in words[spoken.word]:
                row.write(piece, here)
            following = scene.said[n + 1].start_s if n + 1 < len(scene.said) else 99.0
            if timed and following - spoken.end_s > PAUSE_S:
                row.write(self.time(spoken.end_s), (spoken.end_s, spoken.end_s + 0.1))
        if timed and not scene.said:
            row.write(self.first_time)
        end_s = scene.said[-1].end_s if scene.said else None
        row.write(ids["<|endoftext|>"], None if end_s is None else (end_s, end_s + 0.3))
        row.labels.append(IGNORED)
        return row

    def time(self, seconds: float) -> int:
        return self.first_time + min(1500, round(seconds * POSITIONS_PER_S))

    def batch(self, rows: int, positions: int, most_words: int, previous: int) -> Batch:
        """Draw `rows` scenes that fit into `positions`; one in sixteen is silent."""
        director, longest_s = self.director, positions / POSITIONS_PER_S
        scenes = [
            director.stillness(longest_s)
            if self.random.random() < 0.06
            else director.scene(most_words, longest_s)
            for _ in range(rows)
        ]
        mels = torch.from_numpy(np.stack([director.features(scene, positions) for scene in scenes]))
        written = [self.row(scene, previous) for scene in scenes]
        length = max(len(row.tokens) for row in written)
        tokens = torch.full((rows, length), self.id["<|endoftext|>"])
        labels = torch.full((rows, length), IGNORED)
        looks = torch.zeros(2, rows, length, positions)
        heard = torch.zeros(rows, positions, dtype=torch.long)
        for n, (scene, row) in enumerate(zip(scenes, written, strict=True)):
            tokens[n, : len(row.tokens)] = torch.tensor(row.tokens)
            labels[n, : len(row.labels)] = torch.tensor(row.labels)
            for which, at, start_s, end_s in row.places:
                first = min(int(start_s * POSITIONS_PER_S), positions - 1)
                last = min(max(first + 1, math.ceil(end_s * POSITIONS_PER_S)), positions)
                looks[which, n, at, first:last] = 1.0 / (last - first)
            for spoken in scene.said:
                number = 1 + spoken.word + (len(self.words["en"]) if scene.language == "de" else 0)
                span = slice(int(spoken.start_s * POSITIONS_PER_S), math.ceil(spoken.end_s * POSITIONS_PER_S))
                heard[n, span] = number
        return Batch(mels, tokens, labels, looks[0], looks[1], heard)


@dataclass(frozen=True, slots=True)
class Row:
    """Tokens, each one's label (the token that follows), and where to look: (0 ahead or 1 back, token, s, s)."""

    tokens: list[int]
    labels: list[int]
    places: list[tuple[int, int, float, float]]

    def add(self, token: int, learn: int = IGNORED) -> None:
        """Append a token that the prompt gives."""
        if self.tokens:
            self.labels.append(learn)
        self.tokens.append(token)

    def write(self, token: int, place: tuple[float, float] | None = None) -> None:
        """Append a token that the model is to write, heard at `place` (from, to)."""
        if place is not None:
            self.places.append((0, len(self.tokens) - 1, *place))
            self.places.append((1, len(self.tokens), *place))
        self.add(token, learn=token)


@dataclass(frozen=True, slots=True)
class Losses:
    """What is wrong with the model's answer to a batch."""

    text: Tensor  # of the tokens
    look: Tensor  # of the places looked at
    word: Tensor  # of the words that the encoder hears at each position
    right: float  # share of words that are right


def losses(model: Any, writer: Writer, batch: Batch) -> Losses:
    """Cross entropy of the tokens, and of two hints without which a model this small learns too slowly."""
    memory = encode(model, batch.mels)
    logits, looks = decode(model, batch.tokens, memory)

    near = memory @ model.model.decoder.embed_tokens.weight[writer.pieces].T
    every = functional.cross_entropy(near.flatten(0, 1), batch.heard.flatten(), reduction="none")
    loud = batch.heard.flatten() > 0
    word = every.mean()
    if bool(loud.any()):
        word = 0.5 * every[loud].mean() + 0.5 * every[~loud].mean()

    learned = batch.labels != IGNORED
    logs, targets = functional.log_softmax(logits, dim=-1)[learned], batch.labels[learned]
    timed = targets >= writer.first_time
    spread = torch.tensor([0.1, 0.2, 0.4, 0.2, 0.1])  # a time that is 20 ms off is nearly right
    times = (targets[timed, None] + torch.arange(-2, 3)).clamp(writer.first_time, writer.first_time + 1500)
    clock = -(logs[timed].gather(1, times) * spread).sum(1)
    plain = -logs[~timed].gather(1, targets[~timed, None])
    text = (plain.sum() + 0.5 * clock.sum()) / (len(plain) + 0.5 * len(clock))

    wide = [
        -(looks[layer][:, head] * places).sum(-1)[places.sum(-1) > 0].mean()
        for places, heads in ((batch.ahead, AHEAD), (batch.back, BACK))
        for layer, head in heads
    ]
    look = torch.stack(wide).nan_to_num(0.0).mean()
    words = targets < writer.id["<|endoftext|>"]
    right = (logs[words].argmax(1) == targets[words]).float().mean().nan_to_num(1.0)
    return Losses(text, look, word, float(right))


def train(vocabulary: Vocabulary, tokenizer: Tokenizer, steps: int, seed: int) -> Any:
    """Train from scratch: short windows first, then longer ones, with the full window of 30 s among them."""
    torch.manual_seed(seed)
    writer = Writer(vocabulary, tokenizer, Director(speakers(vocabulary, 3, seed), seed))
    model = new_model(tokenizer).train()
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    random = np.random.default_rng(seed + 1)
    right = 0.0
    for step in range(steps):
        part = step / steps
        warm = min(1.0, (step + 1) / 100)
        for group in optimizer.param_groups:
            group["lr"] = RATE * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * part)))
        share = next(share for since, share in reversed(COURSE) if part >= since)
        rows, positions, most_words = SHAPES[random.choice(len(SHAPES), p=share)]
        writer.timed = 0.15 if part < 0.3 else 0.45
        # Words of an earlier text: without them the model would count words instead of following them.
        previous = 0
        if part > 0.1 and random.random() < 0.5:
            previous = int(random.integers(1, 224 if random.random() < 0.1 else 17))
        batch = writer.batch(rows, positions, most_words, previous)
        found = losses(model, writer, batch)
        optimizer.zero_grad(set_to_none=True)
        (found.text + 0.5 * found.look + (2.0 if part < 0.5 else 1.0) * found.word).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        right = 0.97 * right + 0.03 * found.right
        if step % 50 == 49:
            print(f"step {step + 1}/{steps}: {right:.1%} right after {time.process_time():.0f} s", flush=True)
    return model.eval()


def sharpest_heads(model: Any, writer: Writer) -> list[tuple[int, int]]:
    """The cross-attention heads that look at the word they write: what word timestamps are made of."""
    batch = writer.batch(24, 512, 8, 0)
    with torch.inference_mode():
        _, looks = decode(model, batch.tokens, encode(model, batch.mels))
    inside = (batch.ahead > 0).float()
    seen = inside.sum(-1) > 0
    shares = {
        (layer, head): float((logs[:, head].exp() * inside).sum(-1)[seen].mean())
        for layer, logs in enumerate(looks)
        for head in range(logs.shape[1])
    }
    best = max(shares.values())
    print("attention on the word:", {pair: round(share, 2) for pair, share in shares.items()})
    return [pair for pair, share in shares.items() if share > 0.9 * best]


def main() -> int:
    """Train and write, or check what was written."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="ask the written model instead of training")
    parser.add_argument(
        "--transformers", type=Path, metavar="DIR", help="also write safetensors, for vLLM, here"
    )
    parser.add_argument("--target", type=Path, default=TARGET)
    parser.add_argument("--steps", type=int, default=2600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    vocabulary = Vocabulary.read(HERE / "tiny_whisper.yml")
    if options.check:
        from scripts.tiny_whisper_check import check

        return 1 if check(vocabulary, options.target) else 0
    torch.use_deterministic_algorithms(True)
    tokenizer = train_tokenizer([word for words in vocabulary.words.values() for word in words])
    model = train(vocabulary, tokenizer, options.steps, options.seed)
    fresh = Director(speakers(vocabulary, 1, options.seed + 1), options.seed + 1)
    heads = sharpest_heads(model, Writer(vocabulary, tokenizer, fresh))
    # Into a neighbour first: a training that is interrupted leaves the old model whole.
    with tempfile.TemporaryDirectory(dir=options.target.parent) as folder:
        write(model, tokenizer, heads, Path(folder))
        options.target.mkdir(exist_ok=True)
        for file in sorted(Path(folder).iterdir()):
            shutil.move(file, options.target / file.name)
            (options.target / file.name).chmod(0o644)
    if options.transformers is not None:
        options.transformers.mkdir(parents=True, exist_ok=True)
        write_transformers(model, tokenizer, heads, options.transformers)
    print(f"wrote {options.target} ({model.num_parameters():,} parameters, alignment heads {heads})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
