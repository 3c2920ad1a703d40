"""One whole job by one peer: `jobs_worker.py '{"provider": .., "job": .., "model": ..}'`; prints an object of JSON.

Random weights in bf16. A sample ends when the device is done; `first` samples are not kept.
"""

import json
import math
import os
import sys
import time

os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1"}

LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def sampled(step, wait, first, count):
    """Milliseconds of `count` steps."""
    samples = []
    for i in range(first + count):
        wait()
        start = time.perf_counter()
        step()
        wait()
        if i >= first:
            samples.append((time.perf_counter() - start) * 1e3)
    return samples


class Torch:
    """transformers and PEFT, as they are, with Liger Kernel, or compiled."""

    def __init__(self, request):
        import torch
        import transformers

        self.torch, self.request = torch, request
        config = transformers.AutoConfig.from_pretrained(request["model"])
        config.bos_token_id = config.eos_token_id = config.pad_token_id = None
        torch.manual_seed(0)
        with torch.device("cuda"):
            make = transformers.AutoModelForCausalLM.from_config
            self.model = make(config, dtype=torch.bfloat16, attn_implementation="sdpa")
        self.vocab = config.vocab_size
        self.wait = torch.cuda.synchronize

    def ids(self, length):
        return self.torch.randint(0, self.vocab, (self.request["batch"], length), device="cuda")

    def peak(self):
        return self.torch.cuda.max_memory_allocated() / 1e9

    def lora_step(self):
        import peft

        torch, provider = self.torch, self.request["provider"]
        if provider == "peft_liger":
            import liger_kernel.transformers as liger

            patch = getattr(liger, f"apply_liger_kernel_to_{self.model.config.model_type}")
            patch(rope=True, swiglu=True, rms_norm=True, cross_entropy=False, fused_linear_cross_entropy=True, model=self.model)
        self.model.config.use_cache = False
        rank = self.request["rank"]
        lora = peft.LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=LINEARS, task_type="CAUSAL_LM")
        # Adapters in the model's dtype: the faster of PEFT's two ways.
        adapted = peft.get_peft_model(self.model, lora, autocast_adapter_dtype=False)
        if self.request["grad_checkpoint"]:
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            self.model.enable_input_require_grads()
        adapted.train()
        trained = [w for w in adapted.parameters() if w.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)
        ids = self.ids(self.request["length"])
        run = torch.compile(adapted, dynamic=False) if provider == "torch_compile" else adapted

        def step():
            self.loss = run(input_ids=ids, labels=ids).loss
            self.loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        sampled(step, self.wait, 0, 3)
        torch.cuda.reset_peak_memory_stats()
        samples = sampled(step, self.wait, 0, self.request["samples"])
        assert math.isfinite(self.loss.item())
        return samples

    def prefill(self):
        self.model.eval()
        ids = self.ids(self.request["length"])

        def read():
            with self.torch.inference_mode():
                self.model(input_ids=ids, use_cache=True, logits_to_keep=1)

        sampled(read, self.wait, 0, 2)
        self.torch.cuda.reset_peak_memory_stats()
        return sampled(read, self.wait, 0, self.request["samples"])

    def decode(self):
        self.model.eval()
        ids, count = self.ids(self.request["prompt"]), self.request["length"]
        words = {"do_sample": False, "attention_mask": self.torch.ones_like(ids), "pad_token_id": 0}
        if self.request["provider"] == "torch_compile":
            # transformers compiles the forward pass of a static cache by itself.
            words["cache_implementation"] = "static"

        def generate(tokens):
            with self.torch.inference_mode():
                self.model.generate(ids, max_new_tokens=tokens, min_new_tokens=tokens, **words)

        generate(16)
        if self.request["provider"] == "torch_compile":
            generate(count + 1), generate(count + 1)
        one = min(sampled(lambda: generate(1), self.wait, 1, 2))
        self.torch.cuda.reset_peak_memory_stats()
        whole = sampled(lambda: generate(count + 1), self.wait, 0, self.request["samples"])
        return [(ms - one) / count for ms in whole]


class Mlx:
    """mlx-lm."""

    def __init__(self, request):
        import mlx.core as mx
        from mlx_lm.utils import _get_classes

        self.mx, self.request = mx, request
        config = json.load(open(os.path.join(request["model"], "config.json")))
        model_class, args_class = _get_classes(config)
        mx.random.seed(0)
        self.model = model_class(args_class.from_dict(config))
        self.model.set_dtype(mx.bfloat16)
        mx.eval(self.model.parameters())
        self.vocab = config["vocab_size"]

    def wait(self):
        self.mx.synchronize()

    def peak(self):
        return self.mx.get_peak_memory() / 1e9

    def lora_step(self):
        from functools import partial

        import mlx.nn as nn
        import mlx.optimizers as optim
        from mlx.utils import tree_map
        from mlx_lm.tuner.trainer import default_loss, grad_checkpoint
        from mlx_lm.tuner.utils import linear_to_lora_layers

        mx, model, length = self.mx, self.model, self.request["length"]
        model.freeze()
        keys = [f"{'mlp' if name.split('_')[0] in ('gate', 'up', 'down') else 'self_attn'}.{name}" for name in LINEARS]
        rank = self.request["rank"]
        linear_to_lora_layers(model, len(model.layers), {"rank": rank, "scale": 2.0, "dropout": 0.0, "keys": keys})
        # Adapters in the model's dtype: the faster of the two.
        model.update(tree_map(lambda x: x.astype(mx.bfloat16), model.trainable_parameters()))
        model.train()
        if self.request["grad_checkpoint"]:
            grad_checkpoint(model.layers[0])
        optimizer = optim.AdamW(learning_rate=1e-5)
        gradients = nn.value_and_grad(model, default_loss)
        state = [model.state, optimizer.state, mx.random.state]

        @partial(mx.compile, inputs=state, outputs=state)
        def step(batch, lengths):
            (loss, tokens), grads = gradients(model, batch, lengths)
            grads, _ = optim.clip_grad_norm(grads, 1.0)
            optimizer.update(model, grads)
            return loss, tokens

        # It shifts its labels itself, so that a row is one longer.
        batch = mx.random.randint(0, self.vocab, (self.request["batch"], length + 1))
        lengths = mx.array([[0, length]] * self.request["batch"])
        mx.eval(batch, lengths)

        def one():
            self.loss, tokens = step(batch, lengths)
            mx.eval(state, self.loss, tokens)

        sampled(one, self.wait, 0, 3)
        mx.reset_peak_memory()
        samples = sampled(one, self.wait, 0, self.request["samples"])
        assert math.isfinite(self.loss.item())
        return samples

    def decode(self):
        from mlx_lm.generate import generate_step

        self.model.eval()
        prompt, count = self.mx.random.randint(0, self.vocab, (self.request["prompt"],)), self.request["length"]
        self.mx.eval(prompt)

        def generate(tokens):
            times = [time.perf_counter() for _ in generate_step(prompt, self.model, max_tokens=tokens)]
            return (times[-1] - times[0]) * 1e3 / max(len(times) - 1, 1)

        generate(16)
        self.mx.reset_peak_memory()
        return [generate(count + 1) for _ in range(self.request["samples"])]


def main():
    request = json.loads(sys.argv[1])
    peer = (Mlx if request["provider"] == "mlx_lm" else Torch)(request)
    samples = getattr(peer, request["job"])()
    print(json.dumps({"samples_ms": samples, "peak_gb": peer.peak()}))


if __name__ == "__main__":
    main()
