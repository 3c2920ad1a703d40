"""Writes random weights for `model/config.json`: where the pre-training starts.

    python assets/make_init.py assets/model OUT_DIR [--seed N]

OUT_DIR becomes a copy of the model directory with an f32 `model.safetensors`: the embedding normal
with deviation `initializer_range`, the matrices with 1/sqrt(inputs), the two of a layer that write
to the residual stream divided by sqrt(2 x layers), norms one. A model this narrow learns to copy a
name from its context far sooner from 1/sqrt(inputs) than from 0.02. Standard library only.
"""

import argparse
import array
import json
import pathlib
import random
import shutil


def shapes(c):
    """Name, shape and deviation of each tensor (a deviation of None: ones)."""
    h, d, f = c["hidden_size"], c["head_dim"], c["intermediate_size"]
    q, kv = c["num_attention_heads"] * d, c["num_key_value_heads"] * d
    std, deep = h ** -0.5, (2 * c["num_hidden_layers"]) ** -0.5
    yield "model.embed_tokens.weight", [c["vocab_size"], h], c["initializer_range"]
    for i in range(c["num_hidden_layers"]):
        at = f"model.layers.{i}."
        yield at + "input_layernorm.weight", [h], None
        yield at + "self_attn.q_proj.weight", [q, h], std
        yield at + "self_attn.k_proj.weight", [kv, h], std
        yield at + "self_attn.v_proj.weight", [kv, h], std
        yield at + "self_attn.o_proj.weight", [h, q], q ** -0.5 * deep
        yield at + "self_attn.q_norm.weight", [d], None
        yield at + "self_attn.k_norm.weight", [d], None
        yield at + "post_attention_layernorm.weight", [h], None
        yield at + "mlp.gate_proj.weight", [f, h], std
        yield at + "mlp.up_proj.weight", [f, h], std
        yield at + "mlp.down_proj.weight", [h, f], f ** -0.5 * deep
    yield "model.norm.weight", [h], None


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(args.model / name, args.out / name)
    header, body, count = {"__metadata__": {"format": "pt"}}, bytearray(), 0
    for name, shape, std in shapes(json.loads((args.model / "config.json").read_text())):
        n = shape[0] * (shape[1] if len(shape) > 1 else 1)
        values = array.array("f", [1.0] * n if std is None else (rng.gauss(0.0, std) for _ in range(n)))
        if values.itemsize != 4 or array.array("H", [1]).tobytes() != b"\1\0":
            raise SystemExit("make_init: wants a little-endian machine with 4-byte floats")
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(body), len(body) + 4 * n]}
        body += values.tobytes()
        count += n
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (args.out / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + body)
    print(f"{args.out / 'model.safetensors'}: {count} parameters")


if __name__ == "__main__":
    main()
