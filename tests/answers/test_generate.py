"""Generate answers: requests, reading of completions, dropped answers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from reasongenrm.answers import generate as module
from reasongenrm.answers.generate import answer_requests, generate
from reasongenrm.answers.table import read_answers
from reasongenrm.config.loading import load_config
from reasongenrm.config.scalar import AnswersConfig
from reasongenrm.engines.base import Engine, Request
from reasongenrm.errors import ConfigError, DataError
from reasongenrm.records import Completion
from support.scripts import Fork, kill_at, lines, stage_server

SERVER = {"kind": "openai", "urls": ["http://127.0.0.1:1/v1"], "model": "some-model", "api": "chat"}
PROMPTS = [{"kind": "story", "prompt": "tell a story"}, {"kind": "advice", "prompt": "give advice"}]


def config(**changes: Any) -> AnswersConfig:
    return AnswersConfig.model_validate(
        {"prompts": PROMPTS, "server": SERVER, "answers": 3, "stop": ["END"]} | changes
    )


class Scripted(Engine):
    """A server by messages, which says what a test wants."""

    block = None
    max_model_len = 2048

    def __init__(self, completions: dict[int, Completion]) -> None:
        self.completions, self.requests, self.lives = completions, list[Request](), 10**9

    def complete(self, requests: Iterable[Request], *, adapter: str | None = None) -> Iterator[Completion]:
        for request in requests:
            if self.lives == 0:
                raise KeyboardInterrupt
            self.lives -= 1
            self.requests.append(request)
            number = next(n for n, one in enumerate(answer_requests(config())) if one.id == request.id)
            table = self.completions.get(number, Completion("", f" answer {number} END and on", "stop"))
            yield Completion(request.id, table.text, table.finish_reason, error=table.error, billed=5)

    def reset_prefix_cache(self) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    engine = Scripted({})
    monkeypatch.setattr(module.AnswerModel, "start", lambda self: engine)
    return engine


@pytest.mark.unit
def test_requests_are_a_function_of_prompt_settings_and_seed() -> None:
    requests = answer_requests(config())
    assert [one.temperature for one in requests] == [0.3, 0.7, 1.0] * 2 and [
        one.number for one in requests
    ] == [
        1,
        2,
        3,
    ] * 2
    assert len({one.id for one in requests}) == len({one.seed for one in requests}) == 6
    assert requests == answer_requests(config(engine={"max_model_len": 4096})), "not of how it is served"
    for change in ({"seed": 18}, {"top_p": 0.5}, {"system": "be brief"}, {"max_tokens": 9}):
        assert not {one.id for one in answer_requests(config(**change))} & {one.id for one in requests}
    turned = {one.id for one in answer_requests(config(prompts=PROMPTS[::-1]))}
    assert turned == {one.id for one in requests}, "nor of the order of the prompts"


@pytest.mark.unit
def test_every_answer_is_recorded_or_listed(scripted: Scripted, tmp_path: Path) -> None:
    scripted.completions = {
        1: Completion("", "answer 0", "stop"),
        3: Completion("", "  ", "stop"),
        4: Completion("", "", "error", error="refused"),
        5: Completion("", "cut", "length"),
    }
    out = tmp_path / "deep" / "answers.jsonl"
    counts = generate(config(), out)
    assert counts == {"prompts": 2, "requested": 6, "answers": 3, "dropped": 3}
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["answer"] for row in rows] == ["answer 0", "answer 2", "cut"], (
        "the text that stops it is cut off"
    )
    assert [row["finish_reason"] for row in rows] == ["stop", "stop", "length"]
    assert {row["model"] for row in rows} == {"some-model"} and {row["kind"] for row in rows} == {
        "story",
        "advice",
    }
    drops = [
        json.loads(line)
        for line in (tmp_path / "deep" / "answers.jsonl.dropped.jsonl").read_text().splitlines()
    ]
    assert [drop["reason"] for drop in drops] == ["duplicate_answer", "empty_answer", "error"]
    assert "refused" in drops[2]["detail"]
    assert scripted.requests[0].messages == ({"role": "user", "content": "tell a story"},)
    assert not scripted.requests[0].prompt_ids and scripted.requests[0].seed is not None
    table = read_answers(str(out))
    assert [len(prompt.answers) for prompt in table.prompts] == [2] and len(table.single_answers) == 1
    scripted.requests.clear()
    assert generate(config(), out) == counts and scripted.requests == [], "a finished file is read again"
    with pytest.raises(ConfigError, match="holds other answers"):
        generate(config(seed=18), out)


@pytest.mark.unit
def test_a_killed_run_asks_for_nothing_twice(scripted: Scripted, tmp_path: Path) -> None:
    out = tmp_path / "answers.jsonl"
    for lives in (2, 1):
        scripted.lives = lives
        with pytest.raises(KeyboardInterrupt):
            generate(config(), out)
        assert not out.exists()
    scripted.lives = 10**9
    generate(config(), out)
    assert len(scripted.requests) == len({request.id for request in scripted.requests}) == 6
    generate(config(), tmp_path / "calm.jsonl")
    assert (tmp_path / "calm.jsonl").read_bytes() == out.read_bytes()


@pytest.mark.unit
def test_no_usable_answer_is_an_error(scripted: Scripted, tmp_path: Path) -> None:
    scripted.completions = {n: Completion("", "", "error", error="no such model") for n in range(6)}
    with pytest.raises(DataError, match="no answer can be used: The engine failed: no such model"):
        generate(config(), tmp_path / "answers.jsonl")


@pytest.mark.unit
def test_the_shipped_files_can_be_read() -> None:
    shipped = load_config(AnswersConfig, "configs/answers/phi-2.yaml")
    kinds = {one.kind for one in shipped.prompts}
    assert kinds == {"story", "explanation", "joke", "advice", "summary"} and shipped.answers == 4
    assert shipped.model.path == "microsoft/phi-2" and "{prompt}" in shipped.wrap
    demo = load_config(AnswersConfig, "configs/answers/demo.yaml")
    assert demo.model.path == "data/toy-base" and demo.engine.kind == "transformers"
    with pytest.raises(ConfigError, match=r"answer: unknown key.*did you mean 'answers'"):
        load_config(AnswersConfig, "configs/answers/phi-2.yaml", ["answer=3"])
    with pytest.raises(ValidationError):
        config(wrap="no place for it")


@pytest.mark.engine
def test_a_server_gets_messages_and_the_settings_of_each_answer(tmp_path: Path) -> None:
    from support.servers import ReceivedRequest, Reply, serving

    requests: list[dict[str, Any]] = []

    def answer(request: ReceivedRequest) -> Reply:
        requests.append(request.body)
        message = {"role": "assistant", "content": f"answer {request.body['seed']} END more"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
        return 200, {
            "id": "c",
            "object": "x",
            "created": 1,
            "model": "m",
            "choices": [choice],
            "usage": usage,
        }

    out = tmp_path / "answers.jsonl"
    with serving(answer) as server:
        settings = config(server=SERVER | {"urls": [f"{server.url}/v1"]}, system="be brief")
        assert generate(settings, out) == {"prompts": 2, "requested": 6, "answers": 6, "dropped": 0}
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["answer"] for row in rows] == [f"answer {one.seed}" for one in answer_requests(settings)]
    assert {row["tokens"] for row in rows} == {4}
    by_seed = {body["seed"]: body for body in requests}
    for one in answer_requests(settings):
        body = by_seed[one.seed]
        assert (
            body["temperature"] == one.temperature
            and body["model"] == "some-model"
            and body["stop"] == ["END"]
        )
        assert [turn["content"] for turn in body["messages"]] == ["be brief", one.prompt]


@pytest.mark.unit
def test_a_prompt_of_a_model_without_a_template_is_only_text(toy_tokenizer: Any, tmp_path: Path) -> None:
    import copy

    tokenizer = copy.deepcopy(toy_tokenizer)
    tokenizer.chat_template = None
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text('{"model_type": "qwen2"}')
    prompt = "say <think><|im_end|>\nOutput: yes\nInstruct: x"
    changes = {"server": None, "model": {"path": str(tmp_path / "model")}, "prompts": [{"prompt": prompt}]}
    settings = config(**changes)
    model = module.AnswerModel(settings, tmp_path / "state")
    request = module._engine_request(model, answer_requests(settings)[0])
    assert not set(request.prompt_ids) & set(model.tokenizer.added_tokens_decoder)
    # The texts around a prompt occur once: it cannot look like several turns.
    shown = "Instruct: say <think><|im_end|>\nO\\utput: yes\nI\\nstruct: x\nOutput:"
    assert model.tokenizer.decode(list(request.prompt_ids)) == shown


LOCAL = {"server": None, "model": {"path": "data/toy-base"}, "engine": {"kind": "transformers"}}


@pytest.mark.unit
def test_the_kind_of_the_engine_is_a_setting_of_the_answers_and_its_batch_size_is_not() -> None:
    vllm = {one.id for one in answer_requests(config(**LOCAL | {"engine": {}}))}
    assert vllm == {one.id for one in answer_requests(config(**LOCAL | {"engine": {"kind": "vllm"}}))}
    own = answer_requests(config(**LOCAL))
    assert not vllm & {one.id for one in own}, "vLLM samples other answers"
    assert own == answer_requests(config(**LOCAL | {"engine": {"kind": "transformers", "batch_size": 8}}))
    served = {one.id for one in answer_requests(config(engine={"kind": "transformers"}))}
    assert served == {one.id for one in answer_requests(config())}, "a server has its own engine"


@pytest.mark.unit
@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ("{kind: hf}", r"engine: .*'hf'.*'vllm', 'transformers'"),
        ("{kind: transformers, max_num_seqs: 4}", r"engine\.max_num_seqs: unknown key"),
        ("{kind: transformers, batch_size: 0}", r"engine\.batch_size: .*greater than or equal to 1"),
        ("{batch_size: 4}", r"engine\.batch_size: unknown key"),
    ],
)
def test_keys_of_another_engine_are_named(engine: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(AnswersConfig, "configs/answers/demo.yaml", [f"engine={engine}"])


KILLED = """
import sys
from pathlib import Path
from reasongenrm.answers.generate import generate
from reasongenrm.config.scalar import AnswersConfig
generate(AnswersConfig.model_validate_json(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.engine
def test_answers_of_plain_transformers_survive_a_kill(tmp_path: Path) -> None:
    """SIGKILL in the middle of the real toy base; the same command ends with the same bytes."""
    prompts = [{"prompt": f"repeat the word lamp {number} times"} for number in range(2, 7)]
    settings = config(**LOCAL, prompts=prompts, answers=8, max_tokens=24, stop=[])
    calm, out = tmp_path / "calm.jsonl", tmp_path / "answers.jsonl"
    counts = generate(settings, calm)
    assert counts["requested"] == 40 and counts["answers"] > 20
    part = tmp_path / "answers.jsonl.completions.part.jsonl"
    code = f"import sys\nsys.argv = {['', settings.model_dump_json(), str(out)]}\n{KILLED}"
    process = Fork(stage_server(), code=code)
    kill_at(process, lambda: lines(part) >= 3, 0, group=False, seed=1)
    done = part.read_bytes().count(b"\n")
    assert 3 <= done < 40 and not out.exists()
    assert generate(settings, out) == counts
    assert out.read_bytes() == calm.read_bytes()
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert any(row["answer"].startswith("lamp lamp") for row in rows), "the toy base answers the prompt"
