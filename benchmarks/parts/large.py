"""A model whose weights take a while to read: random numbers in Llama's shape, with the shipped tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

TINY = Path(__file__).parents[2] / "launcher" / "models" / "shipped" / "tiny-chat"


def make_large(folder: Path, megabytes: int) -> None:
    """Write a snapshot of about so many MB to `folder`, in four files."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tiny = json.loads((TINY / "config.json").read_text())
    hidden, middle = 1024, 4096
    layer = (4 * hidden * hidden + 3 * hidden * middle) * 2 / 1e6
    config = LlamaConfig(
        vocab_size=tiny["vocab_size"], hidden_size=hidden, intermediate_size=middle, num_attention_heads=16,
        num_key_value_heads=16, num_hidden_layers=max(1, round(megabytes / layer)), dtype="bfloat16",
        max_position_embeddings=2048, bos_token_id=tiny.get("bos_token_id"), eos_token_id=tiny.get("eos_token_id"),
    )  # fmt: skip
    with torch.device("meta"):
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    model = model.to_empty(device="cpu")
    # The same numbers in each matrix: drawing gigabytes of them would take minutes.
    noise = torch.randn(max(weights.numel() for weights in model.parameters())).mul(0.01).bfloat16()
    for weights in model.parameters():
        weights.data.view(-1).copy_(noise[: weights.numel()])
    model.save_pretrained(folder, max_shard_size=f"{max(1, megabytes // 4)}MB")
    for path in TINY.iterdir():
        if path.name not in ("config.json", "README.md") and path.suffix != ".safetensors":
            shutil.copy(path, folder / path.name)
