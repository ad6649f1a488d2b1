"""Train the tiny Whisper model that ships with the launcher, from scratch, on one CPU core."""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # for small matrices its threads cost ten times what they save

import numpy as np
import torch
from tiny_whisper_speech import (
    POSITIONS_PER_S,
    PAUSE_S,
    Director,
    Scene,
    Vocabulary,
    speakers,
)
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import WhisperConfig, WhisperForConditionalGeneration

HERE = Path(__file__).resolve().parent
TARGET = HERE.parent / "launcher" / "models" / "shipped" / "tiny-whisper"

PIECES = 448
HEADS = 4
IGNORED = -100
NEIGHBOURS = [(-8, -3, 3, 8), (-15, -6, 6, 15)]  # steps of 20 ms: where the encoder's heads look at first
GAIN = 3.0
# Cross-attention heads (layer, head) that are shown where to look: at the word just written, then at the next one.
BACK = [(0, 0), (0, 1)]
AHEAD = [(1, 0), (1, 1), (2, 0), (2, 1)]
LANGUAGES = (
    "en zh de es ru ko fr ja pt tr pl ca nl ar sv it id hi fi vi he uk el ms cs ro da hu ta no th ur hr bg lt la mi "
    "ml cy sk te fa lv bn sr az sl kn et mk br eu is hy ne mn bs kk sq sw gl mr pa si km sn yo so af oc ka be tg sd "
    "gu am yi lo uz fo ht ps tk nn mt sa lb my bo tl mg as tt haw ln ha ba jw su yue"
).split()  # openai/whisper, tokenizer.py: this order


def special_tokens() -> list[str]:
    names = ["endoftext", "startoftranscript", *LANGUAGES, "translate", "transcribe", "startoflm", "startofprev"]
    return [f"<|{name}|>" for name in [*names, "nospeech", "notimestamps"]]


def train_tokenizer(vocabulary: Vocabulary) -> Tokenizer:
    """A byte-level BPE with Whisper's special tokens behind it; "" is the last piece.

    The empty piece is what CTranslate2 (src/models/whisper.cc, 4.8) knows a multilingual model by.
    """
    bpe = Tokenizer(BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = BpeTrainer(
        vocab_size=PIECES - 1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        min_frequency=1,
    )
    texts = [f" {word}" for words in vocabulary.words.values() for word in words]
    bpe.train_from_iterator(texts, trainer)
    model = json.loads(bpe.to_str())["model"]
    pieces = model["vocab"]
    for n in range(len(pieces), PIECES - 1):  # fewer merges than asked for
        pieces[f"<unused{n}>"] = n
    pieces[""] = PIECES - 1
    tokenizer = Tokenizer(BPE(vocab=pieces, merges=[tuple(merge) for merge in model["merges"]]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in special_tokens()])
    tokenizer.add_tokens([AddedToken(f"<|{n * 0.02:.2f}|>", normalized=False) for n in range(1501)])
    return tokenizer


def new_model(tokenizer: Tokenizer) -> WhisperForConditionalGeneration:
    eot = tokenizer.token_to_id("<|endoftext|>")
    config = WhisperConfig(
        vocab_size=tokenizer.get_vocab_size(),
        num_mel_bins=80,
        d_model=128,
        encoder_layers=2,
        decoder_layers=3,
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        encoder_ffn_dim=512,
        decoder_ffn_dim=512,
        max_source_positions=1500,
        max_target_positions=448,
        pad_token_id=eot,
        bos_token_id=eot,
        eos_token_id=eot,
        decoder_start_token_id=eot + 1,
        suppress_tokens=[],
        init_std=0.06,
        begin_suppress_tokens=[],
    )
    model = WhisperForConditionalGeneration(config)
    with torch.no_grad():
        # Timestamps start as what the encoder's positions look like: copying one is saying when.
        first = tokenizer.token_to_id("<|0.00|>")
        places = model.model.encoder.embed_positions.weight
        model.model.decoder.embed_tokens.weight[first : first + 1500] = places * 0.15
        places.mul_(0.6)
        for conv in (model.model.encoder.conv1, model.model.encoder.conv2):
            nn.init.normal_(conv.weight, std=1.6 / math.sqrt(conv.weight[0].numel()))
        chosen = torch.tensor([k + half for k in turning() for half in (0, 64)])
        model.model.encoder.conv2.weight[chosen] = 0
        for layer, offsets in zip(model.model.encoder.layers, NEIGHBOURS, strict=True):
            layer.self_attn.out_proj.weight[chosen] = 0
            layer.fc2.weight[chosen] = 0
            look_around(layer.self_attn, offsets)
    return model


def turning() -> list[int]:
    """Sixteen of the 64 frequencies of Whisper's positions: a turn takes 10 to 1500 steps."""
    return list(range(4, 52, 3))


def look_around(attention: Any, offsets: Sequence[int]) -> None:
    """Let each head begin with a look at the place `offset` steps away.

    Whisper's positions are sines and cosines: a query that turns them by offset × frequency meets the key over there.
    """
    half, size = 64, 32
    rates = [10000 ** (-k / 63) for k in range(half)]
    for head, offset in enumerate(offsets):
        for n, k in enumerate(turning()):
            a, b = head * size + 2 * n, head * size + 2 * n + 1
            turn = offset * rates[k]
            attention.k_proj.weight[a, k] += GAIN
            attention.k_proj.weight[b, half + k] += GAIN
            attention.q_proj.weight[a, k] += GAIN * math.cos(turn)
            attention.q_proj.weight[a, half + k] += GAIN * math.sin(turn)
            attention.q_proj.weight[b, half + k] += GAIN * math.cos(turn)
            attention.q_proj.weight[b, k] -= GAIN * math.sin(turn)


def heads(x: Tensor) -> Tensor:
    return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)


def attend(attention: Any, x: Tensor, memory: Tensor, causal: bool) -> Tensor:
    q, k, v = heads(attention.q_proj(x)), heads(attention.k_proj(memory)), heads(attention.v_proj(memory))
    return attention.out_proj(F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).flatten(2))


def look(attention: Any, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    q, k, v = heads(attention.q_proj(x)), heads(attention.k_proj(memory)), heads(attention.v_proj(memory))
    logs = F.log_softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, dim=-1)
    return attention.out_proj((logs.exp() @ v).transpose(1, 2).flatten(2)), logs


def encode(model: Any, mels: Tensor) -> Tensor:
    """Whisper's encoder for a window of any length (transformers' own accepts 30 s only)."""
    encoder = model.model.encoder
    x = F.gelu(encoder.conv2(F.gelu(encoder.conv1(mels)))).transpose(1, 2)
    x = x + encoder.embed_positions.weight[: x.shape[1]]
    for layer in encoder.layers:
        y = layer.self_attn_layer_norm(x)
        x = x + attend(layer.self_attn, y, y, False)
        x = x + layer.fc2(F.gelu(layer.fc1(layer.final_layer_norm(x))))
    return encoder.layer_norm(x)


def decode(model: Any, tokens: Tensor, memory: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Logits, and per layer the log of the cross-attention, shape (rows, heads, tokens, positions)."""
    decoder = model.model.decoder
    x = decoder.embed_tokens(tokens) + decoder.embed_positions.weight[: tokens.shape[1]]
    looks = []
    for layer in decoder.layers:
        y = layer.self_attn_layer_norm(x)
        x = x + attend(layer.self_attn, y, y, True)
        z, logs = look(layer.encoder_attn, layer.encoder_attn_layer_norm(x), memory)
        looks.append(logs)
        x = x + z
        x = x + layer.fc2(F.gelu(layer.fc1(layer.final_layer_norm(x))))
    return decoder.layer_norm(x) @ decoder.embed_tokens.weight.T, looks


class Writer:
    """Turns scenes into rows of tokens, labels and the places to look at."""

    def __init__(self, vocabulary: Vocabulary, tokenizer: Tokenizer, director: Director) -> None:
        self.director = director
        self.random = director.random
        self.timed = 0.45
        self.words = {
            language: [tokenizer.encode(f" {word}", add_special_tokens=False).ids for word in words]
            for language, words in vocabulary.words.items()
        }
        self.id = {name: tokenizer.token_to_id(name) for name in special_tokens()}
        self.classes = [self.id["<|nospeech|>"], *(ids[-1] for words in self.words.values() for ids in words)]
        self.first_time = tokenizer.token_to_id("<|0.00|>")

    def row(self, scene: Scene, before: int) -> tuple[list[int], list[int], list[tuple[int, int, float, float]]]:
        """Tokens, labels (of the next token), and (row, from, to): where in the audio a token is heard."""
        random, ids = self.random, self.id
        translate = random.random() < (0.35 if scene.language == "de" else 0.15)
        words = self.words["en" if translate else scene.language]
        timed = random.random() < self.timed
        tokens: list[int] = []
        labels: list[int] = []
        places: list[tuple[int, int, float, float]] = []

        def write(token: int, place: tuple[float, float] | None = None, learn: bool = True) -> None:
            if tokens:
                labels.append(token if learn else IGNORED)
                if place is not None:
                    places.append((0, len(tokens) - 1, *place))
            if place is not None:
                places.append((1, len(tokens), *place))
            tokens.append(token)

        if before:
            write(ids["<|startofprev|>"])
            pieces = [p for word in random.integers(len(words), size=before) for p in words[word]][:before]
            for piece in pieces:
                write(piece, learn=False)
        write(ids["<|startoftranscript|>"], learn=False)
        write(ids[f"<|{scene.language}|>"])
        if not scene.said:
            labels[-1] = ids["<|nospeech|>"]
        write(ids["<|translate|>" if translate else "<|transcribe|>"], learn=False)
        if not timed:
            write(ids["<|notimestamps|>"], learn=False)
        for n, spoken in enumerate(scene.said):
            previous = scene.said[n - 1].end_s if n else -9.0
            if timed and spoken.start_s - previous > PAUSE_S:
                write(self.time(spoken.start_s), (spoken.start_s, spoken.end_s))
            for piece in words[spoken.word]:
                write(piece, (spoken.start_s, spoken.end_s))
            following = scene.said[n + 1].start_s if n + 1 < len(scene.said) else 99.0
            if timed and following - spoken.end_s > PAUSE_S:
                write(self.time(spoken.end_s), (spoken.end_s, spoken.end_s + 0.1))
        if timed and not scene.said:
            write(self.first_time)
        end = scene.said[-1].end_s if scene.said else None
        write(ids["<|endoftext|>"], None if end is None else (end, end + 0.3))
        labels.append(IGNORED)
        return tokens, labels, places

    def time(self, seconds: float) -> int:
        return self.first_time + min(1500, round(seconds * POSITIONS_PER_S))

    def batch(self, rows: int, positions: int, most_words: int, before: int) -> tuple[Tensor, ...]:
        director = self.director
        scenes = [
            director.stillness(positions / 50) if director.random.random() < 0.06 else director.scene(most_words, positions / 50)
            for _ in range(rows)
        ]
        mels = torch.from_numpy(np.stack([director.features(scene, positions) for scene in scenes]))
        written = [self.row(scene, before) for scene in scenes]
        longest = max(len(tokens) for tokens, _, _ in written)
        tokens = torch.full((rows, longest), self.id["<|endoftext|>"])
        labels = torch.full((rows, longest), IGNORED)
        look_at = torch.zeros(2, rows, longest, positions)
        heard = torch.zeros(2, rows, positions, dtype=torch.long)
        for n, scene in enumerate(scenes):
            previous = 0
            for spoken in scene.said:
                first, last = int(spoken.start_s * 50), math.ceil(spoken.end_s * 50)
                number = 1 + 28 * (scene.language == "de") + spoken.word
                heard[0, n, first:last] = number
                heard[1, n, first:last] = previous
                previous = number
        for n, (row, label, places) in enumerate(written):
            tokens[n, : len(row)] = torch.tensor(row)
            labels[n, : len(label)] = torch.tensor(label)
            for which, at, start_s, end_s in places:
                first = min(int(start_s * 50), positions - 1)
                last = min(max(first + 1, math.ceil(end_s * 50)), positions)
                look_at[which, n, at, first:last] = 1.0 / (last - first)
        return mels, tokens, labels, look_at, heard


def loss_of(model: Any, batch: tuple[Tensor, ...], first_time: int, classes: list[int], before_it: Any) -> tuple[Tensor, ...]:
    mels, tokens, labels, look_at, heard = batch
    memory = encode(model, mels)
    logits, looks = decode(model, tokens, memory)
    near_words = memory @ model.model.decoder.embed_tokens.weight[classes].T
    loud = heard[0] > 0
    every = F.cross_entropy(near_words.flatten(0, 1), heard[0].flatten(), reduction="none").view_as(loud)
    hint = 0.5 * every[loud].mean() + 0.5 * every[~loud].mean() if bool(loud.any()) else every.mean()
    chain = F.cross_entropy(before_it(memory[loud]), heard[1][loud]) if bool(loud.any()) else hint
    logs = F.log_softmax(logits, dim=-1)
    learned = labels != IGNORED
    logs, targets = logs[learned], labels[learned]
    times = targets >= first_time
    text = -logs[~times].gather(1, targets[~times, None])
    near = targets[times, None] + torch.arange(-2, 3)
    weights = torch.tensor([0.1, 0.2, 0.4, 0.2, 0.1])
    near = near.clamp(first_time, first_time + 1500)
    clock = -(logs[times].gather(1, near) * weights).sum(1)
    loss = (text.sum() + clock.sum() * 0.5) / (len(text) + 0.5 * len(clock) + 1e-6)
    seen = look_at.sum(-1) > 0
    guides = [
        -(looks[layer][:, head] * look_at[which]).sum(-1)[seen[which]].mean()
        for which, pairs in enumerate((AHEAD, BACK))
        for layer, head in pairs
    ]
    guide = torch.stack(guides).nan_to_num(0.0).mean()
    with torch.no_grad():
        right = (logs[targets < 448].argmax(1) == targets[targets < 448]).float().mean().nan_to_num(0.5)
    return loss, guide, right, clock.mean() if len(clock) else loss, hint, chain


# (rows, positions, most words): the shapes of batches, and how often each is drawn from which part of the training on.
SHAPES = [(20, 64, 3), (12, 128, 5), (6, 256, 10), (3, 512, 16), (2, 1500, 24)]
COURSE = [(0.0, [0.8, 0.2, 0, 0, 0]), (0.3, [0.45, 0.35, 0.2, 0, 0]), (0.5, [0.33, 0.28, 0.17, 0.11, 0.11]), (0.85, [0.2, 0.2, 0.15, 0.15, 0.3])]


def train(vocabulary: Vocabulary, tokenizer: Tokenizer, minutes: float, seed: int, log: str = "") -> Any:
    torch.manual_seed(seed)
    began = time.monotonic()
    everybody = speakers(vocabulary, 3, seed)
    print(f"{len(everybody)} speakers after {time.monotonic() - began:.0f} s", flush=True)
    writer = Writer(vocabulary, tokenizer, Director(everybody, seed))
    model = new_model(tokenizer).train()
    before_it = nn.Linear(128, len(writer.classes))
    optimizer = torch.optim.AdamW([*model.parameters(), *before_it.parameters()], lr=1.0, betas=(0.9, 0.98), weight_decay=0.01)
    model.model.encoder.embed_positions.weight.requires_grad_(False)
    steps = int(STEPS)
    random = np.random.default_rng(seed + 1)
    started = time.monotonic()
    means = [0.0] * 6
    for step in range(steps):
        part = step / steps
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * part)))
        share = next(share for since, share in reversed(COURSE) if part >= since)
        rows, positions, most = SHAPES[random.choice(len(SHAPES), p=share)]
        writer.timed = 0.15 if part < 0.3 else 0.45
        before = int(random.integers(1, 224)) if part > 0.4 and random.random() < 0.06 else 0
        batch = writer.batch(rows, positions, most, before)
        loss, guide, right, clock, hint, chain = loss_of(model, batch, writer.first_time, writer.classes, before_it)
        optimizer.zero_grad(set_to_none=True)
        (loss + 0.3 * guide + 0.5 * hint + 0.2 * chain).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        means = [0.97 * m + 0.03 * float(v.detach()) for m, v in zip(means, (loss, guide, right, clock, hint, chain), strict=True)]
        if step % 200 == 199:
            torch.save(model.state_dict(), f"/tmp/i4/tw/ck{os.getpid()}.pt")
        if step % 50 == 49:
            print(f"step {step + 1}/{steps}: loss {means[0]:.3f} guide {means[1]:.3f} right {means[2]:.3f} clock {means[3]:.2f} hint {means[4]:.2f} chain {means[5]:.2f} after {time.monotonic() - started:.0f} s, cpu {time.process_time():.0f} s", flush=True)
    return model.eval()


def write(model: Any, tokenizer: Tokenizer, target: Path) -> None:
    from ctranslate2.converters.transformers import WhisperLoader

    spec = WhisperLoader().get_model_spec(model)
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    assert [n for _, n in vocabulary] == list(range(len(vocabulary)))
    spec.register_vocabulary([token for token, _ in vocabulary])
    config: Any = spec.config
    space = tokenizer.encode(" ", add_special_tokens=False).ids
    config.suppress_ids = []
    config.suppress_ids_begin = space
    config.alignment_heads = [list(pair) for pair in AHEAD]
    config.lang_ids = [tokenizer.token_to_id(f"<|{language}|>") for language in LANGUAGES]
    spec.validate()
    spec.optimize(quantization="int8")
    spec.save(str(target))
    tokenizer.save(str(target / "tokenizer.json"))
    features = {
        "feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 80, "sampling_rate": 16000,
        "hop_length": 160, "chunk_length": 30, "n_fft": 400, "n_samples": 480000, "nb_max_frames": 3000,
        "padding_side": "right", "padding_value": 0.0, "processor_class": "WhisperProcessor", "return_attention_mask": False,
    }
    (target / "preprocessor_config.json").write_text(json.dumps(features, indent=2) + "\n")


def main() -> int:
    global STEPS, RATE
    p = argparse.ArgumentParser()
    p.add_argument("--target", type=Path, default=TARGET)
    p.add_argument("--steps", type=int, default=1500)
    p.add_argument("--rate", type=float, default=2e-3)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--threads", type=int, default=1)
    o = p.parse_args()
    STEPS, RATE = o.steps, o.rate
    torch.set_num_threads(o.threads)
    vocabulary = Vocabulary.read(HERE / "tiny_whisper.yml")
    tokenizer = train_tokenizer(vocabulary)
    model = train(vocabulary, tokenizer, 0, o.seed)
    o.target.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), "/tmp/i4/tw/last.pt")
    write(model, tokenizer, o.target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
