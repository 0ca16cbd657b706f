"""The figures of docs/images: they are what `python docs/figures` writes, and show what the package's own code gives."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

from reasongenrm.chat.prompts import PromptFile, judge_prompt
from reasongenrm.checkpoints import load_checkpoint
from reasongenrm.scalar.inputs import encode, load_base_tokenizer

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "figures"
MODULES = ("drawing", "pipeline", "conversation", "sequence", "orders")
NAMES = ("pipeline.svg", "conversation.svg", "scalar-head.svg", "both-orders.svg")
IMAGE = re.compile(
    r'!\[(?P<alt>[^\]]*)\]\((?P<path>[^)\s]+)\)|<img [^>]*alt="(?P<alt2>[^"]*)"[^>]*src="(?P<path2>[^"]+)"'
)


@pytest.fixture(scope="module")
def figures() -> Iterator[dict[str, ModuleType]]:
    """The modules of docs/figures, imported as `python docs/figures` does."""
    before = {name: sys.modules.pop(name, None) for name in MODULES}
    sys.path.insert(0, str(FOLDER))
    try:
        yield {name: importlib.import_module(name) for name in MODULES} | {
            "main": _loaded(FOLDER / "__main__.py")
        }
    finally:
        sys.path.remove(str(FOLDER))
        for name, module in before.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module


def _loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("figures_command", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_figures_are_those_of_the_command(
    figures: dict[str, ModuleType], tmp_path: Path
) -> None:
    figures["main"].main(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(NAMES)
    for name in NAMES:
        committed = (ROOT / "docs" / "images" / name).read_bytes()
        assert (tmp_path / name).read_bytes() == committed, f"{name}: run `python docs/figures`"


def test_the_files_of_the_pipeline_are_files_of_the_package(figures: dict[str, ModuleType]) -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    names = [name.rpartition("/")[2].replace("*", "") for name in figures["pipeline"].FILES]
    assert len(names) == 9 and all(name in source for name in names)
    assert all((ROOT / script).is_file() for script in figures["pipeline"].LANES)


def test_the_tokens_of_the_conversation_are_the_rendered_template(figures: dict[str, ModuleType]) -> None:
    conversation = figures["conversation"]
    encoder, messages, reason, verdict = conversation.toy_record()
    turns = [
        *messages,
        {"role": "reason", "content": reason},
        {"role": "assistant", "content": verdict},
    ]
    rendered = encoder.tokenizer.apply_chat_template(turns, chat_template=encoder.template, tokenize=False)
    tokens = conversation.tokens()
    assert "".join(token.text for token in tokens) + "\n" == rendered
    learned = "".join(token.text for token in tokens if token.learned)
    assert learned == f"{reason}<|im_end|>\n<|im_start|>assistant\n{verdict}<|im_end|>"
    for part, text in (
        ("judged", messages[0]["content"]),
        ("reason", reason),
        ("verdict", f"{verdict}<|im_end|>"),
    ):
        assert "".join(token.text for token in tokens if token.part == part) == text
    assert all(token.learned == (token.part in ("reason", "header", "verdict")) for token in tokens)


def test_the_sequence_is_what_a_head_reads_and_the_head_is_where_the_figure_has_it(
    figures: dict[str, ModuleType], tmp_path: Path
) -> None:
    import torch
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    sequence, base = figures["sequence"], str(ROOT / "data" / "toy-base")
    tokenizer = load_base_tokenizer(base, None, 512)
    ids = encode(tokenizer, sequence.PROMPT, sequence.RESPONSE, 512)["input_ids"]
    shown = [token for _, tokens in sequence.token_rows()["causal"] for token in tokens]
    assert shown == [tokenizer.decode([number]) for number in ids]
    assert [part for part, _ in sequence.token_rows()["encoder"]] == [
        "special", "query", "special", "response", "special",
    ]  # fmt: skip
    inputs = {"input_ids": torch.tensor([ids])}
    with torch.no_grad():
        causal = load_checkpoint("AutoModelForSequenceClassification", base, num_labels=1)
        causal.config.pad_token_id = tokenizer.pad_token_id
        state = causal.model(**inputs).last_hidden_state
        torch.testing.assert_close(causal(**inputs).logits, causal.score(state[:, -1]))
        tiny = DistilBertConfig(
            vocab_size=len(tokenizer), dim=32, hidden_dim=32, n_layers=1, n_heads=1, num_labels=1
        )
        encoder = DistilBertForSequenceClassification(tiny).eval()
        first = encoder.distilbert(**inputs).last_hidden_state[:, 0]
        expected = encoder.classifier(torch.relu(encoder.pre_classifier(first)))
        torch.testing.assert_close(encoder(**inputs).logits, expected)


def test_the_recorded_verdicts_are_on_prompts_of_the_toy_benchmark(figures: dict[str, ModuleType]) -> None:
    prompts = PromptFile.load(ROOT / "configs" / "prompts" / "toy.yaml")
    consistent, biased = figures["orders"].judged_pairs()
    for one in (consistent, biased):
        assert [verdict.order for verdict in one.verdicts] == ["AB", "BA"]
        for verdict in one.verdicts:
            assert verdict.id == judge_prompt(one.pair, verdict.order, prompts).id
            assert verdict.reason.endswith(f"so {verdict.winner} is better .")
    assert (consistent.result.correct, consistent.strict) == ((1.0, 1.0), 1.0)
    assert (biased.result.correct, biased.strict) == ((1.0, 0.0), 0.0)
    assert biased.comparison.prob_a == pytest.approx(0.5, abs=1e-4)


def _luminance(color: str) -> float:
    """Relative luminance of WCAG 2.1."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_texts_have_the_contrast_of_wcag_aa(figures: dict[str, ModuleType], scheme: int) -> None:
    drawing = figures["drawing"]
    plain = ("page", "lane", "box")
    pairs = [("ink", fill) for fill in drawing.FILLS]
    pairs += product(set(drawing.TEXT_COLORS) - {"ink"}, plain)
    for text, fill in pairs:
        light, dark = sorted(
            (_luminance(drawing.COLORS[role][scheme]) for role in (text, fill)), reverse=True
        )
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, fill)


def test_every_picture_of_the_docs_has_an_alternative_text() -> None:
    titles = {}
    for name in NAMES:
        element = ElementTree.parse(ROOT / "docs" / "images" / name).find("{http://www.w3.org/2000/svg}title")
        assert element is not None and element.text
        titles[name] = element.text
    shown = set()
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        for match in IMAGE.finditer(page.read_text(encoding="utf-8")):
            alt, path = match["alt"] or match["alt2"], match["path"] or match["path2"]
            file = page.parent / path
            assert file.is_file() and alt and len(alt) >= 15, (page.name, path)
            if file.name in titles:
                shown.add(file.name)
                assert alt == titles[file.name], (page.name, file.name)
    assert shown == set(NAMES)
