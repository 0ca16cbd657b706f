"""Prompt files of one's own: criteria with weights, and a verdict grammar."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.prompts import PromptFile, hindsight_prompt, judge_prompt
from reasongenrm.chat.verdict import VerdictTokens
from reasongenrm.config.evaluate import JudgingConfig
from reasongenrm.errors import ConfigError
from reasongenrm.judge.ask import VerdictTask
from reasongenrm.reasons.records import direct_record
from reasongenrm.records import Completion, PreferencePair

pytestmark = pytest.mark.unit

PAIR = PreferencePair.make([{"role": "user", "content": "add 1 and 1"}], "2", "{{ criteria }}", "s")
SHOWN = "[Question]\n{{ conversation }}\n[Answer A]\n{{ answer_a }}\n[Answer B]\n{{ answer_b }}\n[End]\n"
OWN: dict[str, Any] = {
    "delimiters": ["[Question]", "[Answer A]", "[Answer B]", "[End]"],
    "judge": "Look at:\n{{ criteria }}\n" + SHOWN + "Close with {{ verdict_a }} or {{ verdict_b }}.",
    "hindsight": SHOWN + "Why is {{ winner }} better?",
    "verdict_phrases": [r"\b(A|B) is better"],
    "criteria": [{"name": "right", "text": "every number is", "weight": 3}, {"name": "short"}],
    "verdict": {"a": "winner: A", "b": "winner: B"},
}


def own(tmp_path: Path, **changes: Any) -> PromptFile:
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(OWN | changes), encoding="utf-8")
    return PromptFile.load(path)


def test_criteria_and_verdicts_are_shown(tmp_path: Path) -> None:
    text = judge_prompt(PAIR, "AB", own(tmp_path)).messages[0]["content"]
    assert text.startswith("Look at:\n- right (weight 3): every number is\n- short\n[Question]")
    assert text.endswith("Close with winner: A or winner: B.")
    assert "[Answer B]\n{{ criteria }}\n[End]" in text, "judged text is no template"
    assert "Why is A better?" in hindsight_prompt(PAIR, "AB", own(tmp_path))[0]["content"]


def test_the_id_of_a_prompt_depends_on_everything_it_shows(tmp_path: Path) -> None:
    plain = OWN | {"criteria": [], "verdict": {}, "judge": SHOWN}
    ids = {
        judge_prompt(PAIR, "AB", own(tmp_path, **changes)).id
        for changes in (
            {},
            {"criteria": [{"name": "right"}]},
            {"criteria": [{"name": "right", "weight": 2}]},
            {"verdict": {"a": "winner: one", "b": "winner: two"}},
            plain,
        )
    }
    assert len(ids) == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"judge": SHOWN}, "does not show criteria"),
        ({"criteria": [{"name": "x", "weight": 0}]}, "greater than 0"),
        ({"criteria": [{"nam": "x"}]}, "unknown key"),
        ({"verdict": {"a": "A", "b": "A"}}, "two different texts"),
        ({"verdict": {"a": "A", "c": "B"}}, "unknown key"),
    ],
)
def test_an_invalid_verdict_grammar_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        own(tmp_path, **changes)
    assert "own.yaml" in caught.value.location


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "not a mapping of keys"),
        ("judge: [", "invalid YAML"),
        ("[" * 3000, "invalid YAML"),
        ("judge: x\njudge: y", "invalid YAML"),
        ("judge: x", "Field required"),
        (yaml.safe_dump(OWN | {"judge": "{{"}), "invalid template or pattern: "),
        (yaml.safe_dump(OWN | {"verdict_phrases": ["A"]}), "verdict phrase 'A' needs exactly one group"),
    ],
)
def test_every_error_of_a_prompt_file_has_a_hint(text: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        PromptFile.load(path)
    assert caught.value.problem.startswith(problem) and caught.value.hint
    assert caught.value.location.startswith(str(path)) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "problem"), [("own.yaml/x", "Not a directory"), ("x" * 300, "too long")])
def test_a_prompt_file_that_cannot_be_read(name: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").touch()
    with pytest.raises(ConfigError, match="cannot be read: .*" + problem) as caught:
        PromptFile.load(tmp_path / name)
    assert caught.value.location == str(tmp_path / name) and caught.value.hint


def test_records_are_written_and_read_in_the_same_grammar(tmp_path: Path, toy_tokenizer: Any) -> None:
    prompts = own(tmp_path)
    template = Path("configs/prompts/reason.jinja").read_text(encoding="utf-8")
    encoder = ChatEncoder(toy_tokenizer, template, prompts.verdict)
    prompt = judge_prompt(PAIR, "BA", prompts)
    record = direct_record(prompt, prompts.verdict)
    assert record.response == "winner: B"
    task = VerdictTask(JudgingConfig(max_tokens=32), encoder, 512, seed=17)
    tokens = VerdictTokens.from_encoder(encoder)
    [request] = task.requests([prompt])
    assert request.stop_ids == (tokens.end,) and tokens.closing == (), (
        "the verdicts end in different characters"
    )
    for winner, letter in (("A", tokens.letters[0]), ("B", tokens.letters[1])):
        ids = tuple(encoder.completion("[[A]] is what they say , winner: A ?", f"winner: {winner}"))
        place = max(at for at, token in enumerate(ids) if token == letter)
        logprobs = {place: {tokens.letters[0]: -0.5, tokens.letters[1]: -1.5}}
        verdict = task.read(prompt, Completion(prompt.id, "", "stop", ids, logprobs))
        assert (verdict.winner, verdict.outcome) == (winner, "ok") and verdict.prob_a == pytest.approx(
            0.7311, abs=1e-4
        )


def test_verdicts_that_differ_in_several_tokens_are_refused(tmp_path: Path, toy_tokenizer: Any) -> None:
    prompts = own(tmp_path, verdict={"a": "the first one wins", "b": "it is the other"})
    template = Path("configs/prompts/reason.jinja").read_text(encoding="utf-8")
    with pytest.raises(ConfigError, match="by one token"):
        VerdictTokens.from_encoder(ChatEncoder(toy_tokenizer, template, prompts.verdict))
