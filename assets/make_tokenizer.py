"""Trains the quickstart model's tokenizer and writes every file of `model/` but the weights.

    pip install tokenizers
    python assets/make_tokenizer.py CORPUS_DIR assets/model

A byte-level BPE as Qwen has it (NFC, single digits), on `CORPUS_DIR/train.jsonl` and the words
of `quickstart/train.jsonl`; a plain ChatML template; a Qwen3 configuration.
"""

import argparse
import json
import pathlib

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

VOCAB = 2048
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
# Qwen2's split: contractions, words with the space before them, single digits, punctuation.
SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
CHAT = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": None,
    "eos_token_id": 2,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 256,
    "initializer_range": 0.02,
    "intermediate_size": 512,
    "max_position_embeddings": 512,
    "max_window_layers": 6,
    "model_type": "qwen3",
    "num_attention_heads": 4,
    "num_hidden_layers": 6,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": VOCAB,
}
GENERATION = {
    "do_sample": True,
    "eos_token_id": [2, 0],
    "max_new_tokens": 160,
    "pad_token_id": 0,
    "temperature": 0.7,
    "top_k": 20,
    "top_p": 0.9,
}


def texts(corpus, quickstart):
    """What the merges are learned from: the corpus without its special tokens."""
    for line in (corpus / "train.jsonl").open(encoding="utf-8"):
        text = json.loads(line)["text"]
        for token in SPECIAL:
            text = text.replace(token, "")
        yield text
    if quickstart.exists():
        for line in quickstart.open(encoding="utf-8"):
            for message in json.loads(line)["messages"]:
                yield from [message["content"]] * 5  # else the rare words would be spelt out


def train(corpus, quickstart):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts(corpus, quickstart), trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=[AddedToken(t, special=True, normalized=False) for t in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    ))
    return tokenizer


def parameters(c):
    """How many weights the configuration has."""
    h, d = c["hidden_size"], c["head_dim"]
    q, kv = c["num_attention_heads"] * d, c["num_key_value_heads"] * d
    layer = h * q * 2 + h * kv * 2 + 2 * d + 3 * h * c["intermediate_size"] + 2 * h
    return c["vocab_size"] * h + c["num_hidden_layers"] * layer + h


def write(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("corpus", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer = train(args.corpus, pathlib.Path(__file__).parent / "quickstart" / "train.jsonl")
    tokenizer.save(str(args.out / "tokenizer.json"))
    write(args.out / "tokenizer_config.json", {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(i): {"content": t, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
            for i, t in enumerate(SPECIAL)
        },
        "additional_special_tokens": SPECIAL[1:],
        "bos_token": None,
        "chat_template": CHAT,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "model_max_length": CONFIG["max_position_embeddings"],
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": None,
    })
    write(args.out / "config.json", CONFIG)
    write(args.out / "generation_config.json", GENERATION)
    print(f"{args.out}: {tokenizer.get_vocab_size()} tokens, {parameters(CONFIG)} parameters")


if __name__ == "__main__":
    main()
