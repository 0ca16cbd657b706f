"""Score reasons under the student: a plain implementation against `reasongenrm.reasons`, in one run.

    python bench/rstar.py [--quick] [--vllm] [--repeats 5] [--vocabulary 8000 151936]

Plain: one forward pass per prompt + reason, a log-softmax over the whole vocabulary at every position, batch 1.
Ours: `Student.score` on the same token ids (`--vllm`: `vllm_scores` too). The models are untrained Qwen2s from a
fixed seed. Each method has its own process, so that its memory settings do not affect the others; they are timed in
turn, after one warm-up turn. A ratio is that of the fastest turns, which other work on the machine disturbs least.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

ROOT = Path(__file__).resolve().parent.parent
REASON, HEADER, VERDICT = 200, 5, 3
"""Tokens after each prompt: the reason's, and on top of them the header's and the verdict's."""
VOCABULARIES = (8_000, 151_936)
HEAD = "| vocabulary | N | prompt | {} | ratio | body's limit | largest difference |"


@dataclass(frozen=True)
class Work:
    """N reasons of one prompt of so many tokens."""

    vocabulary: int
    samples: int
    prompt: int

    @property
    def limit(self) -> float:
        """How many times fewer tokens pass through the body when the prompt does so once."""
        tail = REASON + HEADER + VERDICT
        return self.samples * (self.prompt + tail) / (self.prompt + self.samples * tail)

    def group(self) -> Any:
        """The same random tokens in every process."""
        import torch

        from reasongenrm.reasons.score import Continuation, EncodedGroup
        from reasongenrm.records import JudgePrompt, Reason

        generator = torch.Generator().manual_seed(17)

        def ids(length: int) -> tuple[int, ...]:
            return tuple(torch.randint(self.vocabulary, (length,), generator=generator).tolist())

        continuations = tuple(
            Continuation(
                Reason(f"p#{n}", "p", "", "A", REASON, "stop", "bench", "blind"),
                ids(REASON + HEADER + VERDICT),
                REASON,
                VERDICT,
            )
            for n in range(self.samples)
        )
        return EncodedGroup(JudgePrompt("p", "p", "AB", (), "A", "bench"), ids(self.prompt), continuations)


def tokenizer() -> Any:
    """The toy world's tokenizer: vLLM does not start without one, and its ids lie within both vocabularies."""
    from reasongenrm.chat.prompts import PromptFile
    from reasongenrm.demo.base import train_tokenizer

    prompts = ROOT / "configs" / "prompts"
    template = (prompts / "reason.jinja").read_text(encoding="utf-8")
    return train_tokenizer(PromptFile.load(prompts / "toy.yaml"), template, seed=17)


def build(folder: Path, vocabulary: int) -> None:
    """Save an untrained Qwen2: 8 layers, 512 wide, 8 heads of 64, 2 KV heads, 2,048 in the middle, tied, float32."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(17)
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)


class Plain:
    """Mean log p of reason and verdict, in the simplest code."""

    def __init__(self, folder: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def score(self, group: Any) -> list[tuple[float, float]]:
        import torch

        scores = []
        for continuation in group.continuations:
            ids = torch.tensor([[*group.prompt_ids, *continuation.ids]])
            with torch.inference_mode():
                logprobs = torch.log_softmax(self._model(input_ids=ids, use_cache=False).logits[0], dim=-1)
            at = torch.tensor([len(group.prompt_ids) + place for place in continuation.scored_positions])
            values = logprobs[at - 1, ids[0, at]]
            reason, verdict = values.split([continuation.reason_tokens, continuation.verdict_tokens])
            scores.append((reason.mean().item(), verdict.mean().item()))
        return scores


class Ours:
    """The scorers of `reasongenrm.reasons`."""

    def __init__(self, folder: str, kind: str) -> None:
        from reasongenrm.config.engines import EngineConfig, ModelConfig

        model = ModelConfig(path=folder, dtype="float32")
        if kind == "transformers":
            from reasongenrm.reasons.student import Student

            self._scorer: Any = Student(model).score
        else:
            from reasongenrm.engines.vllm import VLLMEngine
            from reasongenrm.reasons.student import vllm_scores

            config = EngineConfig(max_model_len=4096, max_num_seqs=32, cpu_kv_gib=2, enforce_eager=True)
            self._scorer = partial(vllm_scores, VLLMEngine(model, config))

    def score(self, group: Any) -> list[tuple[float, float]]:
        return [(scored.reason_logprob, scored.verdict_logprob) for scored in self._scorer([group])]


def serve(method: str, folder: str, pipe: Connection) -> None:
    """Time one way at whatever comes down the pipe: (seconds, scores) for each piece of work, until None."""
    scorer: Any = Plain(folder) if method == "plain" else Ours(folder, method.removeprefix("ours, "))
    pipe.send(method)
    while work := pipe.recv():
        group = work.group()
        start = time.perf_counter()
        scores = scorer.score(group)
        pipe.send((time.perf_counter() - start, scores))


class Methods:
    """One process per method and model; used as a context."""

    def __init__(self, methods: list[str], folder: Path) -> None:
        spawn = get_context("spawn")
        self._pipes: dict[str, Connection] = {}
        self._processes = []
        for method in methods:
            self._pipes[method], theirs = spawn.Pipe()
            self._processes.append(spawn.Process(target=serve, args=(method, str(folder), theirs)))
            self._processes[-1].start()
            theirs.close()
            self._pipes[method].recv()

    def __enter__(self) -> Methods:
        return self

    def __exit__(self, *error: object) -> None:
        for pipe in self._pipes.values():
            pipe.send(None)
        for process in self._processes:
            process.join()

    def row(self, work: Work, repeats: int) -> str:
        """Time the methods in turn; return one row of a table."""
        seconds: dict[str, list[float]] = {method: [] for method in self._pipes}
        scores: dict[str, list[tuple[float, float]]] = {}
        for turn in range(repeats + 1):
            for method, pipe in self._pipes.items():
                pipe.send(work)
                elapsed, scores[method] = pipe.recv()
                seconds[method] += [elapsed] if turn else []
        best = {method: min(elapsed) for method, elapsed in seconds.items()}
        gap = max(
            abs(a - b)
            for method in scores
            for one, other in zip(scores[method], scores["plain"], strict=True)
            for a, b in zip(one, other, strict=True)
        )
        ratios = " / ".join(
            f"{best['plain'] / elapsed:.2f}x" for method, elapsed in best.items() if method != "plain"
        )
        times = " | ".join(f"{elapsed:.2f} s" for elapsed in best.values())
        return (
            f"| {work.vocabulary:,} | {work.samples} | {work.prompt:,} | {times} | **{ratios}** "
            f"| {work.limit:.2f}x | {gap:.0e} |"
        )


def machine() -> str:
    """One line on where this was measured."""
    import torch
    import transformers

    model = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).exists():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line
        ]
        model = names[0] if names else model
    return (
        f"{model}, {os.cpu_count()} cores ({torch.get_num_threads()} threads), torch {torch.__version__}, "
        f"transformers {transformers.__version__}, load {os.getloadavg()[0]:.1f}"
    )


def table(title: str, methods: list[str], running: Methods, works: list[Work], repeats: int) -> None:
    """Print one table row by row."""
    print(f"\n{title}\n\n{HEAD.format(' | '.join(methods))}\n|{'---:|' * (6 + len(methods))}", flush=True)
    for work in works:
        print(running.row(work, repeats), flush=True)


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one repeat, and no scaling")
    parser.add_argument("--vllm", action="store_true", help="also time the scorer on vLLM")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--vocabulary", type=int, nargs="+", default=VOCABULARIES, help="sizes to measure")
    options = parser.parse_args()
    repeats = 1 if options.quick else options.repeats
    methods = ["plain", "ours, transformers", *(["ours, vllm"] if options.vllm else [])]
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        for vocabulary in options.vocabulary:
            model = Path(folder) / str(vocabulary)
            build(model, vocabulary)
            with Methods(methods, model) as running:
                title = f"8 reasons of {REASON} tokens (+ {HEADER + VERDICT} of header and verdict)"
                table(title, methods, running, [Work(vocabulary, 8, 1000)], repeats)
                if vocabulary == VOCABULARIES[0] and not options.quick:
                    few = max(1, repeats // 2)
                    by_n = [Work(vocabulary, samples, 1000) for samples in (1, 2, 4, 8, 16)]
                    table("By the number of reasons", methods, running, by_n, few)
                    by_length = [Work(vocabulary, 8, prompt) for prompt in (125, 250, 500, 1000, 2000)]
                    table("By the prompt's length", methods, running, by_length, few)


if __name__ == "__main__":
    main()
