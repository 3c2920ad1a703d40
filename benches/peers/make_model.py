"""Writes the model of the whole jobs, random, as transformers saves it, and as GGUF for llama.cpp: make_model.py DIR."""

import pathlib
import sys

import gguf
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from cases import MODEL

torch.manual_seed(0)
DIR = pathlib.Path(sys.argv[1])
TYPES = {
    "f32": (torch.float32, gguf.GGMLQuantizationType.F32),
    "f16": (torch.float16, gguf.GGMLQuantizationType.F16),
    "bf16": (torch.bfloat16, gguf.GGMLQuantizationType.BF16),
}
HEADS = {"q_proj": MODEL["num_attention_heads"], "k_proj": MODEL["num_key_value_heads"]}


def interleaved(weight, heads):
    """Rows as llama.cpp rotates them: a pair of a head's dimensions side by side, not half a head apart."""
    rows, columns = weight.shape
    return weight.view(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)


def write_gguf(path, weights, dtype):
    kind, quantization = TYPES[dtype]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(MODEL["max_position_embeddings"])
    writer.add_embedding_length(MODEL["hidden_size"])
    writer.add_block_count(MODEL["num_hidden_layers"])
    writer.add_feed_forward_length(MODEL["intermediate_size"])
    writer.add_head_count(MODEL["num_attention_heads"])
    writer.add_head_count_kv(MODEL["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(MODEL["rms_norm_eps"])
    writer.add_rope_dimension_count(MODEL["head_dim"])
    writer.add_vocab_size(MODEL["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, MODEL["num_hidden_layers"])
    for name, weight in weights.items():
        weight = interleaved(weight, HEADS[name.split(".")[-2]]) if name.split(".")[-2] in HEADS else weight
        to = names.get_name(name, try_suffixes=(".weight",))
        # It keeps vectors in f32.
        if weight.ndim == 1 or dtype == "f32":
            writer.add_tensor(to, weight.float().numpy())
        else:
            writer.add_tensor(to, weight.to(kind).contiguous().view(torch.uint8).numpy(), raw_dtype=quantization)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


model = LlamaForCausalLM(LlamaConfig(**MODEL)).to(torch.float32)
for dtype in TYPES:
    DIR.mkdir(parents=True, exist_ok=True)
    write_gguf(DIR / f"{dtype}.gguf", model.state_dict(), dtype)
# What the driver looks for: last.
model.save_pretrained(DIR)
