"""The tiny Whisper model itself: tokenizer, untrained weights, forward pass for windows of any length, files.

Owns what the model is and how it is written (CTranslate2 for faster-whisper, safetensors for transformers and vLLM);
not what it learns from.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from torch import Tensor, nn
from torch.nn import functional
from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration

PIECES = 448  # of text; Whisper's special tokens and 1501 times follow
WIDTH, HEADS = 128, 4  # heads of 32: vLLM's CPU attention knows only some sizes
TIMES = 1501
# Steps of 20 ms: where the heads of the encoder's layers look at first.
NEIGHBOURS = [(-8, -3, 3, 8), (-15, -6, 6, 15)]
SHARPNESS = 3.0  # of that look
# The order of openai/whisper, whisper/tokenizer.py.
_CODES = (
    "en zh de es ru ko fr ja pt tr pl ca nl ar sv it id hi fi vi he uk el ms cs ro da hu ta no th ur hr bg lt la mi "
    "ml cy sk te fa lv bn sr az sl kn et mk br eu is hy ne mn bs kk sq sw gl mr pa si km sn yo so af oc ka be tg sd "
    "gu am yi lo uz fo ht ps tk nn mt sa lb my bo tl mg as tt haw ln ha ba jw su yue"
)
LANGUAGES = _CODES.split()
FEATURES = {
    "feature_extractor_type": "WhisperFeatureExtractor",
    "feature_size": 80,
    "sampling_rate": 16000,
    "hop_length": 160,
    "chunk_length": 30,
    "n_fft": 400,
    "n_samples": 480000,
    "nb_max_frames": 3000,
    "padding_side": "right",
    "padding_value": 0.0,
    "processor_class": "WhisperProcessor",
    "return_attention_mask": False,
}


def special_tokens() -> list[str]:
    """Whisper's special tokens in Whisper's order, without the times."""
    names = [
        "endoftext",
        "startoftranscript",
        *LANGUAGES,
        "translate",
        "transcribe",
        "startoflm",
        "startofprev",
    ]
    return [f"<|{name}|>" for name in [*names, "nospeech", "notimestamps"]]


def number(tokenizer: Tokenizer, token: str) -> int:
    """The id of a token that is there."""
    found = tokenizer.token_to_id(token)
    if found is None:
        raise KeyError(token)
    return found


def train_tokenizer(words: Sequence[str]) -> Tokenizer:
    """A byte-level BPE in which each word is one piece and any text can be written; "" is its last piece.

    CTranslate2 takes a model for a multilingual one when it has the empty piece (src/models/whisper.cc of 4.8).
    """
    bpe = Tokenizer(BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = BpeTrainer(
        vocab_size=PIECES - 1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        min_frequency=1,
    )
    bpe.train_from_iterator([f" {word}" for word in words], trainer)
    trained = json.loads(bpe.to_str())["model"]
    pieces = trained["vocab"] | {f"<unused{n}>": n for n in range(len(trained["vocab"]), PIECES - 1)}
    pieces[""] = PIECES - 1
    tokenizer = Tokenizer(BPE(vocab=pieces, merges=[tuple(merge) for merge in trained["merges"]]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in special_tokens()])
    tokenizer.add_tokens([AddedToken(f"<|{n * 0.02:.2f}|>", normalized=False) for n in range(TIMES)])
    return tokenizer


def new_model(tokenizer: Tokenizer) -> WhisperForConditionalGeneration:
    """An untrained Whisper; its encoder already looks at the neighbourhood, its times already look like places."""
    end = number(tokenizer, "<|endoftext|>")
    sizes = {"d_model": WIDTH, "encoder_ffn_dim": 4 * WIDTH, "decoder_ffn_dim": 4 * WIDTH}
    layers = {"encoder_layers": len(NEIGHBOURS), "decoder_layers": 3}
    heads = {"encoder_attention_heads": HEADS, "decoder_attention_heads": HEADS}
    ids = {"pad_token_id": end, "bos_token_id": end, "eos_token_id": end, "decoder_start_token_id": end + 1}
    config = WhisperConfig(
        **sizes,
        **layers,
        **heads,
        **ids,
        vocab_size=tokenizer.get_vocab_size(),
        num_mel_bins=80,
        max_source_positions=1500,
        max_target_positions=448,
        suppress_tokens=[],
        begin_suppress_tokens=[],
        init_std=0.06,
    )
    model = WhisperForConditionalGeneration(config)
    encoder = model.model.encoder
    with torch.no_grad():
        # Times start as what the encoder's positions look like: to copy one is to say when.
        first = number(tokenizer, "<|0.00|>")
        places = encoder.embed_positions.weight
        model.model.decoder.embed_tokens.weight[first : first + len(places)] = places * 0.15
        places.mul_(0.6)
        for conv in (encoder.conv1, encoder.conv2):  # as loud as the positions, or nothing is heard for long
            nn.init.normal_(conv.weight, std=1.6 / math.sqrt(conv.weight[0].numel()))
        turning = torch.tensor([k + half for k in _turning() for half in (0, WIDTH // 2)])
        encoder.conv2.weight[turning] = 0
        for layer, offsets in zip(encoder.layers, NEIGHBOURS, strict=True):
            layer.self_attn.out_proj.weight[turning] = 0
            layer.fc2.weight[turning] = 0
            _look_around(layer.self_attn, offsets)
    places.requires_grad_(False)
    return model


def _turning() -> list[int]:
    """Sixteen of the 64 frequencies of Whisper's positions: a turn takes 10 to 10,000 steps."""
    return list(range(4, 52, 3))


def _look_around(attention: Any, offsets: Sequence[int]) -> None:
    """Let each head begin with a look at the place `offset` steps away.

    Whisper's positions are sines and cosines: a query turned by offset × frequency meets the key that far away.
    """
    half, size = WIDTH // 2, WIDTH // HEADS
    query, key = attention.q_proj.weight, attention.k_proj.weight
    for head, offset in enumerate(offsets):
        for n, k in enumerate(_turning()):
            sine, cosine = head * size + 2 * n, head * size + 2 * n + 1
            turn = offset * 10000 ** (-k / (half - 1))
            key[sine, k] += SHARPNESS
            key[cosine, half + k] += SHARPNESS
            query[sine, k] += SHARPNESS * math.cos(turn)
            query[sine, half + k] += SHARPNESS * math.sin(turn)
            query[cosine, half + k] += SHARPNESS * math.cos(turn)
            query[cosine, k] -= SHARPNESS * math.sin(turn)


def encode(model: Any, mels: Tensor) -> Tensor:
    """Whisper's encoder for a window of any length (transformers' own accepts 30 s only)."""
    encoder = model.model.encoder
    x = functional.gelu(encoder.conv2(functional.gelu(encoder.conv1(mels)))).transpose(1, 2)
    x = x + encoder.embed_positions.weight[: x.shape[1]]
    for layer in encoder.layers:
        y = layer.self_attn_layer_norm(x)
        x = _fed_forward(layer, x + _attended(layer.self_attn, y, causal=False))
    coded: Tensor = encoder.layer_norm(x)
    return coded


def decode(model: Any, tokens: Tensor, memory: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Logits, and for each layer the log of the cross-attention, shape (rows, heads, tokens, positions)."""
    decoder = model.model.decoder
    x = decoder.embed_tokens(tokens) + decoder.embed_positions.weight[: tokens.shape[1]]
    looks = []
    for layer in decoder.layers:
        y = layer.self_attn_layer_norm(x)
        x = x + _attended(layer.self_attn, y, causal=True)
        y, logs = _looked(layer.encoder_attn, layer.encoder_attn_layer_norm(x), memory)
        looks.append(logs)
        x = _fed_forward(layer, x + y)
    logits: Tensor = decoder.layer_norm(x) @ decoder.embed_tokens.weight.T
    return logits, looks


def _heads(x: Tensor) -> Tensor:
    split: Tensor = x.unflatten(-1, (HEADS, -1))
    return split.transpose(1, 2)


def _attended(attention: Any, x: Tensor, causal: bool) -> Tensor:
    q, k, v = _heads(attention.q_proj(x)), _heads(attention.k_proj(x)), _heads(attention.v_proj(x))
    seen = functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
    joined: Tensor = attention.out_proj(seen.transpose(1, 2).flatten(2))
    return joined


def _looked(attention: Any, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    q, k, v = _heads(attention.q_proj(x)), _heads(attention.k_proj(memory)), _heads(attention.v_proj(memory))
    logs = functional.log_softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, dim=-1)
    return attention.out_proj((logs.exp() @ v).transpose(1, 2).flatten(2)), logs


def _fed_forward(layer: Any, x: Tensor) -> Tensor:
    added: Tensor = layer.fc2(functional.gelu(layer.fc1(layer.final_layer_norm(x))))
    return x + added


def write(model: Any, tokenizer: Tokenizer, alignment_heads: Sequence[tuple[int, int]], target: Path) -> None:
    """Write the model as CTranslate2 and faster-whisper read it, weights in 8 bits, into the folder `target`."""
    from ctranslate2.converters.transformers import WhisperLoader

    spec = WhisperLoader().get_model_spec(copy.deepcopy(model))  # it quantizes the very weights it is given
    pieces = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    spec.register_vocabulary([piece for piece, _ in pieces])
    spec.config.suppress_ids = []
    # Not <|endoftext|>, as in the large models: where nobody speaks, this one writes nothing.
    spec.config.suppress_ids_begin = tokenizer.encode(" ", add_special_tokens=False).ids
    spec.config.alignment_heads = [list(pair) for pair in alignment_heads]
    spec.config.lang_ids = [number(tokenizer, f"<|{language}|>") for language in LANGUAGES]
    spec.validate()
    spec.optimize(quantization="int8")
    spec.save(str(target))
    tokenizer.save(str(target / "tokenizer.json"))
    _write_json(target / "preprocessor_config.json", FEATURES)


def write_transformers(
    model: Any, tokenizer: Tokenizer, alignment_heads: Sequence[tuple[int, int]], target: Path
) -> None:
    """Write the same model as transformers and vLLM read it: safetensors in single precision."""
    ids = {name: number(tokenizer, name) for name in special_tokens()}
    model.generation_config = GenerationConfig(
        max_length=448,
        bos_token_id=ids["<|endoftext|>"],
        eos_token_id=ids["<|endoftext|>"],
        pad_token_id=ids["<|endoftext|>"],
        decoder_start_token_id=ids["<|startoftranscript|>"],
        no_timestamps_token_id=ids["<|notimestamps|>"],
        prev_sot_token_id=ids["<|startofprev|>"],
        is_multilingual=True,
        return_timestamps=False,
        max_initial_timestamp_index=50,
        suppress_tokens=[],
        begin_suppress_tokens=[],
        lang_to_id={f"<|{language}|>": ids[f"<|{language}|>"] for language in LANGUAGES},
        task_to_id={task: ids[f"<|{task}|>"] for task in ("transcribe", "translate")},
        alignment_heads=[list(pair) for pair in alignment_heads],
    )
    model.save_pretrained(target)
    tokenizer.save(str(target / "tokenizer.json"))
    parts = json.loads(tokenizer.to_str())["model"]
    _write_json(target / "vocab.json", parts["vocab"])
    merges = "".join(f"{left} {right}\n" for left, right in parts["merges"])
    (target / "merges.txt").write_text(f"#version: 0.2\n{merges}", encoding="utf-8")
    end = "<|endoftext|>"
    special = {"bos_token": end, "eos_token": end, "unk_token": end, "pad_token": end}
    about = {
        "tokenizer_class": "WhisperTokenizer",
        "model_max_length": 448,
        "clean_up_tokenization_spaces": False,
    }
    _write_json(target / "tokenizer_config.json", special | about)
    _write_json(target / "preprocessor_config.json", FEATURES)


def _write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
