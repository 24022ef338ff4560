#!/usr/bin/env python3
"""What transformers computes with a base language model, recorded for crates/vila-u/tests/golden/base.rs.

    pip install torch transformers tokenizers numpy safetensors
    python tools/record_base.py FOLDER      # of a model as Hugging Face has it: adds recorded.safetensors and .json
    python tools/record_base.py             # makes and records the small models of the test itself

Recorded in float32: the logits of a text (every position), a greedy continuation of "The capital of France is", and
the tokens of texts of many kinds with what they are decoded to.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

GOLDEN = Path(__file__).parent.parent / "crates/vila-u/tests/golden/base"
PROMPT = "The capital of France is"
TEXT = """VILA-U reads a picture as a row of tokens, as it reads a text. Each of the 256 tokens has 4 codes, \
and the model says them one after the other: first what is where, then the details."""
NEW_TOKENS = 24

TEXTS = [
    "",
    " ",
    "a",
    "The capital of France is",
    " leading space",
    "   three leading spaces, two  inside, one at the end ",
    "tabs\tand\n\nnew lines\r\n",
    "I'm sure they'll say it's 1234567 or 3.14159, don't you?",
    "Größe, naïve, e\u0301te\u0301, Ελληνικά, русский, עברית, العربية, हिन्दी",
    "日本語の文章と漢字、한국어 문장",
    "🙂 👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽",
    "\x00\x7f\ufeff\u2028\U0010ffff",
    "<|eot|><|begin|>special <|eot|> tokens<|eot|>",
    "<|im_start|>user\nHi<|im_end|>\n",
    "a <tool> word, <tool",
    "▁ and Ġ are characters as others",
    "https://example.org/a_b-c?d=e&f=%20#g",
    "x" * 200,
]


def tokenization(tokenizer) -> list[dict]:
    decode = lambda ids: tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    cases = []
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        cases.append({"text": text, "ids": ids, "decoded": decode(ids), "decoded_but_last": decode(ids[:-1])})
    return cases


def record(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    text = tokenizer(TEXT, return_tensors="pt")["input_ids"]
    prompt = tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits = model(text).logits[0]
        row = prompt
        for _ in range(NEW_TOKENS):
            row = torch.cat([row, model(row).logits[:, -1:].argmax(-1)], dim=1)
    continuation = row[0, prompt.shape[1]:]
    save_file(
        {"ids": text[0].int(), "logits": logits.contiguous(), "prompt": prompt[0].int(), "greedy": continuation.int()},
        folder / "recorded.safetensors",
    )
    write(folder / "recorded.json", {"prompt": PROMPT, "texts": tokenization(tokenizer)})
    print(f"{folder}: {PROMPT!r} -> {tokenizer.decode(continuation)!r}")


def write(path: Path, value) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def train(pre_tokenizer, special: list[str], words: list[str], size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([TEXT, *TEXTS] * 2, trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in words])
    return tokenizer


def write_tokenizer(tokenizer: Tokenizer, folder: Path, bos: str | None, eos: str) -> None:
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    names = {"bos_token": bos, "eos_token": eos, "tokenizer_class": "PreTrainedTokenizerFast"}
    write(folder / "tokenizer_config.json", {key: name for key, name in names.items() if name})


def small_model() -> None:
    """Llama 3's kind: grouped heads, scaled rotation, one table for words in and out, `<|begin|>` before a text."""
    folder = GOLDEN / "llama3"
    folder.mkdir(parents=True, exist_ok=True)
    split = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    words = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(split), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer = train(words, ["<|begin|>", "<|eot|>"], [], 318)
    begin = tokenizer.token_to_id("<|begin|>")
    template = processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", begin)])
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), template])
    write_tokenizer(tokenizer, folder, "<|begin|>", "<|eot|>")

    torch.manual_seed(15)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=328,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=20,
        max_position_embeddings=256,
        initializer_range=0.3,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=begin,
        eos_token_id=[tokenizer.token_to_id("<|eot|>"), begin],
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight += 0.1 * torch.randn_like(weight)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    record(folder)


def small_tokenizer() -> None:
    """SmolLM2's kind: digits one by one, nothing before a text, a word that is added and not special."""
    folder = GOLDEN / "smollm2"
    folder.mkdir(parents=True, exist_ok=True)
    words = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ])
    tokenizer = train(words, ["<|im_start|>", "<|im_end|>"], ["<tool>"], 300)
    write_tokenizer(tokenizer, folder, "<|im_start|>", "<|im_end|>")
    texts = tokenization(AutoTokenizer.from_pretrained(folder))
    write(folder / "recorded.json", {"prompt": PROMPT, "texts": texts})


if __name__ == "__main__":
    torch.set_num_threads(1)
    if len(sys.argv) == 2:
        record(Path(sys.argv[1]))
    else:
        small_model()
        small_tokenizer()
