"""Trains tinyllama: a Llama of 1.4 million parameters that writes like Python's documentation, byte by byte.

It takes two to three minutes of one core, once: the recipe's build runs `train` as its first step and keeps what it
wrote, a folder as Hugging Face has them. `python train.py FOLDER` does the same by hand.

One seed and one thread give the same weights, bit by bit, on the same Python, torch and processor. Another processor
or torch adds in another order: weights differ, and perplexity in its third digit.
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

from tinyllama import BOS, CONTEXT, EOS, PAD, VOCABULARY, passages, token_ids

ARCHITECTURE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "max_position_embeddings": CONTEXT,
    "tie_word_embeddings": True,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "pad_token_id": PAD,
}
"""What `transformers.LlamaConfig` is made of: grouped queries, heads as large as those of real models."""
STEPS = 500
TOKENS_A_STEP = 2048
JUDGED = 32
"""Held-out passages that the perplexity in `training.json` is of."""
SHORT = 0.6
"""This share of the steps reads half the context: cheaper, and most of what there is to learn is near."""
MATRIX_RATE, VECTOR_RATE = 1e-2, 4e-3
"""Learning rates of Muon for the matrices (Jordan et al. 2024), and of AdamW for the embedding and the norms."""


def train(folder: Path, steps: int = STEPS) -> float:
    """Train, write the model's files into `folder`, and return the perplexity of `JUDGED` held-out passages."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    try:
        model = LlamaForCausalLM(LlamaConfig(**ARCHITECTURE))
        _learn(model.train(), torch.from_numpy(token_ids("calibration")), steps)
        perplexity = _perplexity(model.eval())
    finally:
        torch.set_num_threads(threads)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    facts = {"steps": steps, "held_out_perplexity": perplexity}
    (folder / "training.json").write_text(json.dumps(facts, indent=1) + "\n")
    return perplexity


def _learn(model: Any, text: Any, steps: int) -> None:
    import torch

    named = [(name, each) for name, each in model.named_parameters() if each.requires_grad]
    matrices = [each for name, each in named if each.ndim == 2 and "embed" not in name]
    others = [each for name, each in named if each.ndim != 2 or "embed" in name]
    muon = torch.optim.Muon(matrices, lr=MATRIX_RATE, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.AdamW(others, lr=VECTOR_RATE, betas=(0.9, 0.95), weight_decay=0.0)
    generator = torch.Generator().manual_seed(0)
    began = time.monotonic()
    for step in range(steps):
        pace = _pace(step / steps)
        for optimizer, rate in ((muon, MATRIX_RATE), (adam, VECTOR_RATE)):
            for group in optimizer.param_groups:
                group["lr"] = pace * rate
        length = CONTEXT // 2 if step < SHORT * steps else CONTEXT
        starts = torch.randint(0, len(text) - length, (TOKENS_A_STEP // length,), generator=generator)
        loss = _loss(model, text[starts[:, None] + torch.arange(length)])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in (muon, adam):
            optimizer.step()
            optimizer.zero_grad()
        if step % 50 == 0:
            print(f"step {step} of {steps}: loss {loss.item():.3f}, {time.monotonic() - began:.0f} s", file=sys.stderr)


def _pace(progress: float) -> float:
    """The share of the learning rate: up in the first 3 %, then down along a cosine to a twentieth."""
    return min(1.0, progress / 0.03 + 0.01) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))


def _loss(model: Any, ids: Any) -> Any:
    """Mean negative log-likelihood of every token given those before it in its row."""
    import torch

    return torch.nn.functional.cross_entropy(model(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def _perplexity(model: Any) -> float:
    import torch

    with torch.no_grad():
        nats = [_loss(model, torch.from_numpy(batch["input_ids"])).item() for batch in passages("evaluation", JUDGED)]
    return math.exp(sum(nats) / len(nats))


def write_tokenizer(folder: Path) -> None:
    """Write `tokenizer.json`: a token is a byte, and its id is the byte's value; a text begins with BOS."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    vocabulary = {character: byte for byte, character in enumerate(_byte_characters())}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<bos>", "<eos>", "<pad>", *(f"<unused{number}>" for number in range(VOCABULARY - PAD - 1))]
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in specials])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", BOS)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))


def _byte_characters() -> list[str]:
    """The printable character that stands for each byte in a byte-level vocabulary (GPT-2's `bytes_to_unicode`)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(256 + others.index(byte)) for byte in range(256)]


def main() -> None:
    """Train into the folder that the first argument names."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{folder}: held-out perplexity {train(folder):.4f}")


if __name__ == "__main__":
    main()
