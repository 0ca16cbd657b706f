"""vLLM's own pooling server gives the scores of a head, as docs/usage.md says."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import httpx
import pytest

from reasongenrm.config.rubric import Criterion, Rubric
from reasongenrm.scalar.model import ScalarRewardModel
from reasongenrm.scalar.scale import ScoreScale
from reasongenrm.scalar.tiny import word_tokenizer
from support.doc_blocks import code_blocks, replaced
from support.vllm_server import vllm_server

pytestmark = [pytest.mark.engine, pytest.mark.slow]

[EXAMPLE] = [
    block
    for block in code_blocks(Path(__file__).resolve().parents[2] / "docs" / "usage.md")
    if block.heading == "On vLLM's own server" and block.language == "python"
]
CONTEXT = [{"role": "system", "content": "a lesson"}, {"role": "user", "content": "count to 4"}]
REPLIES = ["Perfect!", "Almost: say 'estoy cansada'."]
"""Those of the page."""
KEY = "secret"


def save_head(kind: str, toy_tokenizer: Any, folder: Path) -> None:
    """Write a random head with scores far enough apart to see a wrong one: a causal one with two criteria, or a BERT."""
    import torch
    import transformers

    tokenizer = (
        toy_tokenizer if kind == "causal" else word_tokenizer([*REPLIES, "a lesson count to 4 system user"])
    )
    tokenizer.chat_template, tokenizer.model_max_length = None, 128
    shape: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 2, "max_position_embeddings": 128, "initializer_range": 0.3}
    shape |= {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    rubric = Rubric(criteria=(Criterion(name="clarity", weight=3), Criterion(name="tone", scale=(0, 10))))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(17)
        if kind == "causal":
            scale = ScoreScale(objective="dimensions", mean=(3.0, 5.0), sd=(1.0, 2.0), rubric=rubric)
            config = transformers.Qwen2Config(num_key_value_heads=1, num_labels=2, **shape)
            model: Any = transformers.Qwen2ForSequenceClassification(config)
        else:
            scale = ScoreScale(objective="regression", mean=(0.5,), sd=(0.2,))
            config = transformers.BertConfig(num_labels=1, **shape)
            model = transformers.BertForSequenceClassification(config)
    model.config.reasongenrm = scale.model_dump(mode="json")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize("kind", ["causal", "encoder"])
def test_the_pooling_server_gives_the_same_scores(kind: str, toy_tokenizer: Any, tmp_path: Path) -> None:
    folder = tmp_path / "head"
    save_head(kind, deepcopy(toy_tokenizer), folder)
    head = ScalarRewardModel.from_pretrained(folder, device="cpu")
    own = head.score_batch(contexts=[CONTEXT] * 2, responses=REPLIES)
    assert abs(own[0] - own[1]) > 0.02, "a wrong score would be seen"
    with vllm_server(folder, KEY, tmp_path / "log", ["--runner", "pooling", "--max-model-len", "128"]) as url:
        names: dict[str, Any] = {"head": head, "context": CONTEXT}
        headers = f'headers={{"Authorization": "Bearer {KEY}"}}, json=body'
        values = {"http://127.0.0.1:8000/": url.removesuffix("v1"), "json=body": headers}
        values |= {"runs/tutor/scalar": str(folder), "timeout=60": "timeout=240"}
        exec(compile(replaced(EXAMPLE.code, values), "docs/usage.md", "exec"), names)
        assert names["replies"] == REPLIES and names["scores"] == pytest.approx(own, abs=1e-3)
        if kind == "encoder":
            body = {"model": str(folder), "text_1": "count to 4", "text_2": REPLIES, "use_activation": False}
            score = f"{url.removesuffix('/v1')}/score"
            reply = httpx.post(score, json=body, headers={"Authorization": f"Bearer {KEY}"}, timeout=240)
            logits = [[row["score"]] for row in reply.json()["data"]]
            texts = head.score_batch(contexts=["count to 4"] * 2, responses=REPLIES)
            assert head.scale.scores(logits) == pytest.approx(texts, abs=1e-3)
