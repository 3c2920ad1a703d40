"""Writes the model of the whole jobs, random, as transformers saves it: make_model.py DIR."""

import sys

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from cases import MODEL

torch.manual_seed(0)
LlamaForCausalLM(LlamaConfig(**MODEL)).to(torch.float32).save_pretrained(sys.argv[1])
