"""The parts of a measurement; each runs in a process of its own: `python -m reasongenrm.doctor.parts PART FOLDER [N]`.

A part appends its results to the job's rows as it goes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import yaml

from reasongenrm.chat.verdict import VerdictTokens, prob_a
from reasongenrm.config.engines import EngineConfig, ModelConfig
from reasongenrm.config.recipe import Recipe
from reasongenrm.doctor.job import (
    TINY_MODEL,
    TRAINING_STEPS,
    Job,
    encoder_of,
    judge_prompts,
    measured_pass,
    reasons_of,
    record_lengths,
)
from reasongenrm.processes import die_with_parent

TOY = "data/toy-base"
"""Folder of the tokenizer where the recipe's cannot be loaded."""


def synchronise() -> None:
    """Wait until the GPU has done its work; without one do nothing."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def matrix_rate(job: Job) -> None:
    """Measure the rate of a matrix product: the best of 5 in bfloat16 on a GPU, in float32 on a CPU."""
    import torch

    gpu = torch.cuda.is_available()
    side = job.sizes.matrix
    a, b = (
        torch.randn(
            side, side, device="cuda" if gpu else "cpu", dtype=torch.bfloat16 if gpu else torch.float32
        )
        for _ in range(2)
    )
    best = float("inf")
    for _ in range(6):  # the first one starts the library
        synchronise()
        began = time.perf_counter()
        a @ b
        synchronise()
        best = min(best, time.perf_counter() - began)
    job.add_row(
        "matrix rate",
        way=f"{side}^3, {'bfloat16' if gpu else 'float32'}",
        tflops=round(2 * side**3 / best / 1e12, 3),
    )


def build(job: Job) -> None:
    """Write the model of random weights, an adapter, training records, and P(A) with the adapter merged."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Qwen2Config

    from reasongenrm.chat.encoder import load_tokenizer
    from reasongenrm.doctor.geometry import read_config
    from reasongenrm.errors import EngineError
    from reasongenrm.train.model import LORA_DEFAULTS

    source = job.source
    try:
        tokenizer = load_tokenizer(source.model)
    except EngineError:
        tokenizer = load_tokenizer(ModelConfig(path=TOY))
    # Larger than the tokenizer's, as that of Qwen is, rounded up as for a GPU.
    tiny = Qwen2Config(
        vocab_size=-(-(len(tokenizer) + 1) // 64) * 64, eos_token_id=tokenizer.eos_token_id, **TINY_MODEL
    )
    config = tiny if job.tiny else read_config(source.model)
    dtype = torch.float32 if job.tiny else getattr(torch, source.model.dtype)
    torch.manual_seed(17)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(
            config, dtype=dtype, trust_remote_code=source.model.trust_remote_code
        )
    model.save_pretrained(job.model)
    tokenizer.save_pretrained(job.model)
    lora = LORA_DEFAULTS | source.train.lora
    tuned = get_peft_model(model, LoraConfig(**lora))
    with torch.no_grad():
        for name, weights in tuned.named_parameters():
            if "lora_B" in name:
                weights.normal_(std=0.02)
    tuned.save_pretrained(job.adapter)
    tokenizer.save_pretrained(job.adapter)
    _write_recipe(job, source, "float32" if job.tiny else source.model.dtype)
    _write_records(job, len(tokenizer))
    merged = tuned.merge_and_unload().eval()
    recipe = job.recipe
    tokens = VerdictTokens.from_encoder(encoder_of(recipe))
    values = []
    for ids in forced_prompts(job, recipe):
        with torch.inference_mode():
            hidden = merged.base_model(input_ids=torch.tensor([ids], device=merged.device)).last_hidden_state[
                0, -1:
            ]
            logits = merged.get_output_embeddings()(hidden)[0].float()
        logprobs = torch.log_softmax(logits, dim=-1)
        values.append(prob_a({token: logprobs[token].item() for token in tokens.letters}, tokens))
    (job.folder / "prob_a.json").write_text(json.dumps(values), encoding="utf-8")
    job.add_row("model", way="tiny" if job.tiny else source.model.path, tokenizer=len(tokenizer))


def _write_recipe(job: Job, source: Recipe, dtype: str) -> None:
    raw = source.model_dump(mode="json")
    raw["model"] = {"path": str(job.model), "dtype": dtype}
    raw["name"] = "doctor"
    raw["evaluate"] |= {"max_tokens": job.sizes.reason_tokens, "votes": 1, "temperature": 0.0}
    (job.folder / "recipe.yaml").write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")


def _write_records(job: Job, vocabulary: int) -> None:
    """Write the records of a training as `train.sft` reads them, for the largest number of processes."""
    from datasets import Dataset

    draw = random.Random(1)
    count = records_per_process(job, job.source) * (TRAINING_STEPS + 1) * max(2, _gpus())
    rows = []
    for length in record_lengths(job.sizes, count):
        learned = max(1, length // 5)
        ids = [draw.randrange(vocabulary) for _ in range(length)]
        rows.append({"input_ids": ids, "completion_mask": [0] * (length - learned) + [1] * learned})
    Dataset.from_list(rows).save_to_disk(str(job.folder / "tokens"))


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def records_per_process(job: Job, recipe: Recipe) -> int:
    """Return the records of a training process in one optimizer step."""
    return job.sizes.passes * measured_pass(recipe)


def forced_prompts(job: Job, recipe: Recipe) -> list[list[int]]:
    """Return token ids up to the letter of the verdict: prompts with a short reason."""
    encoder = encoder_of(recipe)
    tokens = VerdictTokens.from_encoder(encoder)
    prompts = judge_prompts(recipe, job.sizes.compared, job.sizes.prompt_words)
    tail = [*(tokens.header if encoder.reasons_first else ()), *tokens.opening]
    return [
        [
            *encoder.encode(prompt.messages, generation=True),
            *(encoder.content(reason.text) if encoder.reasons_first else ()),
            *tail,
        ]
        for prompt in prompts
        for reason in reasons_of(prompt, 1, 8)
    ]


def open_engine(job: Job, recipe: Recipe, *, split: int = 1, rank: int = 0) -> Any:
    """Return vLLM over the model of random weights."""
    from reasongenrm.engines.vllm import VLLMEngine

    update: dict[str, Any] = {"tensor_parallel": split}
    if job.tiny:
        update |= {"max_model_len": 512, "max_num_seqs": 16, "cpu_kv_gib": 1, "enforce_eager": True}
    config = EngineConfig.model_validate(recipe.engine.model_dump() | update)
    return VLLMEngine(recipe.model, config, seed=recipe.seed, max_lora_rank=rank)


def sampling(job: Job, split: int) -> None:
    """Measure sampling, with log-probabilities of the letters at every token and without."""
    from reasongenrm.engines.base import Request, request_seed

    recipe, sizes = job.recipe, job.sizes
    encoder = encoder_of(recipe)
    tokens = VerdictTokens.from_encoder(encoder)
    encoded = [
        tuple(encoder.encode(prompt.messages, generation=True))
        for prompt in judge_prompts(recipe, sizes.prompts, sizes.prompt_words)
    ]
    with closing(open_engine(job, recipe, split=split)) as engine:
        list(engine.complete([Request("warm-up", encoded[0], 4, ignore_eos=True)]))
        for way, read in (("log-probabilities off", ()), ("log-probabilities on", tokens.letters)):
            requests = [
                Request(f"{number}#{sample}", ids, sizes.reason_tokens, 1.0, ignore_eos=True,
                        seed=request_seed(17, f"{number}#{sample}"), logprob_token_ids=read)
                for number, ids in enumerate(encoded)
                for sample in range(sizes.samples)
            ]  # fmt: skip
            engine.reset_prefix_cache()
            began = time.perf_counter()
            completions = list(engine.complete(requests))
            seconds = time.perf_counter() - began
            if errors := [c.error for c in completions if c.finish_reason == "error"]:
                raise RuntimeError(errors[0])
            sampled = sum(len(c.token_ids) for c in completions)
            job.add_row(
                "sampling", way=f"{way}, {split} GPU" if _gpus() else way, tokens_per_s=round(sampled / seconds, 1), tokens=sampled,
                prompt_tokens=sum(map(len, encoded)), seconds=round(seconds, 3), tensor_parallel=split,
            )  # fmt: skip


def scoring(job: Job) -> None:
    """Measure R* scoring on transformers, and which method the student chose."""
    from reasongenrm.reasons.score import encode_group, group_batches
    from reasongenrm.reasons.student import Student, default_batch_tokens

    recipe, sizes = job.recipe, job.sizes
    encoder, student = encoder_of(recipe), Student(recipe.model)
    groups = [
        encode_group(encoder, prompt, reasons_of(prompt, sizes.samples, sizes.reason_tokens))
        for prompt in judge_prompts(recipe, sizes.prompts, sizes.prompt_words)
    ]
    batches = list(group_batches(groups, recipe.select.batch_tokens or default_batch_tokens()))
    student.score(batches[0])
    synchronise()
    began = time.perf_counter()
    for batch in batches:
        student.score(batch)
    synchronise()
    seconds = time.perf_counter() - began
    continuations = [c for group in groups for c in group.continuations]
    prompt_tokens = sum(len(group.prompt_ids) for group in groups)
    tokens = sum(len(c.ids) for c in continuations)
    job.add_row(
        "scoring", way=student.method, tokens_per_s=round(tokens / seconds, 1), tokens=tokens, prompt_tokens=prompt_tokens,
        reasons_per_s=round(len(continuations) / seconds, 2), seconds=round(seconds, 3),
    )  # fmt: skip


def judging(job: Job) -> None:
    """Judge the same rows twice in another order with the adapter; compare P(A) with the merged model's."""
    import peft

    from reasongenrm.engines.base import Request
    from reasongenrm.judge.ask import VerdictTask
    from reasongenrm.judge.memory import ask_in_memory

    recipe, sizes = job.recipe, job.sizes
    encoder = encoder_of(recipe)
    rank = peft.LoraConfig.from_pretrained(str(job.adapter)).r
    prompts = judge_prompts(recipe, sizes.judgements, sizes.prompt_words)
    adapter = str(job.adapter)
    with closing(open_engine(job, recipe, rank=rank)) as engine:
        config = recipe.evaluate.model_copy(update={"combine": "mean"})  # `meta` would need a trained head
        task = VerdictTask(config, encoder, engine.max_model_len, seed=recipe.seed)
        ask_in_memory(prompts[:2], engine, task, adapter=adapter)
        orders = [list(prompts), random.Random(1).sample(prompts, len(prompts))]
        by_order, seconds = [], []
        for order in orders:
            engine.reset_prefix_cache()
            began = time.perf_counter()
            results = ask_in_memory(order, engine, task, adapter=adapter)
            seconds.append(time.perf_counter() - began)
            by_order.append({verdict.id: verdict for verdict, _ in results})
        pairs = [(verdict, by_order[1][name]) for name, verdict in by_order[0].items()]
        moved = [abs(a.prob_a - b.prob_a) for a, b in pairs if a.prob_a is not None and b.prob_a is not None]
        job.add_row(
            "judging", way="twice, reshuffled", judgements=len(pairs), read=len(moved),
            changed=sum(a.winner != b.winner for a, b in pairs), largest_dp=max(moved, default=None),
            tokens=sum(verdict.tokens for verdict, _ in pairs), seconds=round(min(seconds), 3),
            judgements_per_s=round(len(pairs) / min(seconds), 3),
        )  # fmt: skip
        tokens = VerdictTokens.from_encoder(encoder)
        letters = tokens.letters
        requests = [
            Request(str(number), tuple(ids), 1, allowed=letters, logprob_token_ids=letters)
            for number, ids in enumerate(forced_prompts(job, recipe))
        ]
        values = {
            int(c.id): prob_a(c.logprobs[0], tokens) for c in engine.complete(requests, adapter=adapter)
        }
    merged = json.loads((job.folder / "prob_a.json").read_text(encoding="utf-8"))
    gaps = [abs(value - (values[number] or 0.0)) for number, value in enumerate(merged)]
    spread = max(merged) - min(merged)
    job.add_row(
        "adapter",
        way="vLLM against merged",
        prompts=len(gaps),
        largest_dp=max(gaps),
        spread_of_p=round(spread, 4),
    )


def kernels(job: Job) -> None:
    """Ask vLLM for its model runner and its attention kernel, from the config of an engine that is not started."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.platforms import current_platform

    from reasongenrm.doctor.geometry import read_config

    recipe = job.source
    folder = job.folder / "config"
    read_config(recipe.model).save_pretrained(folder)
    config = EngineArgs(
        model=str(folder), dtype=recipe.model.dtype, max_model_len=256, enforce_eager=recipe.engine.enforce_eager,
        tensor_parallel_size=1,
    ).create_engine_config()  # fmt: skip
    runner = {True: "V2", False: "V1", None: "unknown"}[getattr(config, "use_v2_model_runner", None)]
    job.add_row("kernels", runner=runner, device=current_platform.device_type, attention=_attention(config))


def _attention(config: Any) -> str:
    """Return the name of vLLM's attention kernel for a config."""
    from vllm.config import set_current_vllm_config
    from vllm.v1.attention.selector import get_attn_backend

    model = config.model_config
    with set_current_vllm_config(config):
        backend = get_attn_backend(model.get_head_size(), model.dtype, None)
    return str(backend.get_name())


def main() -> None:
    """Run one part."""
    die_with_parent()
    parser = argparse.ArgumentParser()
    parser.add_argument("part")
    parser.add_argument("folder", type=Path)
    parser.add_argument("number", type=int, nargs="?")
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    parts: dict[str, Any] = {"matrix": matrix_rate, "build": build, "scoring": scoring, "judging": judging, "kernels": kernels}  # fmt: skip
    job = Job.load(options.folder)
    if options.part == "sampling":
        sampling(job, options.number)
    else:
        parts[options.part](job)


if __name__ == "__main__":
    main()
