"""First step of stage 1: rows become placed and rendered pairs, as a stream; what is left out is counted.

Rows are checked, rendered and measured in worker processes; what needs to see all rows (duplicates, the report) is
done here, in their order. Memory does not grow with the input.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice

from reasongenrm.data.ranked import load_ranked
from reasongenrm.data.rows import read_pair
from reasongenrm.data.sources import raw_pairs
from reasongenrm.judge.prompts import ChatEncoder, PromptFile, judge_prompt, place, swapped
from reasongenrm.judge.verdict import verdict_text
from reasongenrm.processes import map_chunks
from reasongenrm.reading import RawRow
from reasongenrm.reasons.sample import teacher_messages
from reasongenrm.recipe import Recipe
from reasongenrm.records import Drop, JudgePrompt, PreferencePair, to_json
from reasongenrm.stages.loading import judge_encoder, load_tokenizer, teacher_encoder
from reasongenrm.store import dump_line

CHUNK = 256
"""Rows that a worker process takes at a time."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pair as it would be written, before it is known whether it came before.

    Attributes:
        pair: the pair.
        prompts: its judge prompts, one per order.
        lines: per output file, the lines to write.
        tokens: length of the longest judge prompt per judge template, in tokens.
        too_long: why it breaks the length policy, or None.
    """

    pair: PreferencePair
    prompts: tuple[JudgePrompt, ...]
    lines: dict[str, bytes]
    tokens: dict[str, int]
    too_long: Drop | None


def source_rows(recipe: Recipe) -> Iterator[RawRow | PreferencePair | Drop]:
    """Yield the rows of all sources, at most `limit` of them."""

    def rows() -> Iterator[Iterable[RawRow | PreferencePair | Drop]]:
        for source in recipe.data.sources:
            if source.kind == "ranked":
                yield load_ranked(source.path)
            else:
                yield raw_pairs(source.path, split=source.split, revision=source.revision)

    return islice(chain.from_iterable(rows()), recipe.limit)


def load_sources(recipe: Recipe) -> Iterator[PreferencePair | Drop]:
    """Yield all sources' rows as pairs."""
    return (read_pair(row) if isinstance(row, RawRow) else row for row in source_rows(recipe))


class _Placer:
    """What a worker process knows: wording, orders, and the encoders for the length policy."""

    def __init__(self, recipe: Recipe, measured: bool) -> None:
        self._recipe = recipe
        self._prompts = PromptFile.load(recipe.prompts)
        self._encoders: dict[str, ChatEncoder] = {}
        self._teachers: dict[str, ChatEncoder] = {}
        if measured:
            tokenizer = load_tokenizer(recipe.model)
            for template in sorted({judge.template for judge in recipe.judges.values()}):
                self._encoders[template] = judge_encoder(recipe, template, tokenizer)
            if recipe.needs_reasons():
                for name in recipe.teachers:
                    encoder = teacher_encoder(recipe, name)
                    if encoder is not None:
                        self._teachers[name] = encoder

    def candidate(self, pair: PreferencePair) -> Candidate:
        order = place(pair.id, self._recipe.seed)
        orders = (order, swapped(order)) if self._recipe.data.both_orders else (order,)
        prompts = tuple(judge_prompt(pair, o, self._prompts) for o in orders)
        tokens = self._tokens(prompts)
        lines = {
            "pairs": dump_line(to_json(pair)),
            "prompts": "".join(dump_line(to_json(prompt)) for prompt in prompts),
        }
        encoded = {name: text.encode("utf-8") for name, text in lines.items()}
        return Candidate(pair, prompts, encoded, tokens, self._too_long(pair, prompts, tokens))

    def _tokens(self, prompts: tuple[JudgePrompt, ...]) -> dict[str, int]:
        if not self._encoders:
            return {}
        [first, *_] = self._encoders.values()
        texts = max(len(first.content(prompt.messages[-1]["content"])) for prompt in prompts)
        return {name: texts + encoder.frame(prompts[0].messages) for name, encoder in self._encoders.items()}

    def _too_long(
        self, pair: PreferencePair, prompts: tuple[JudgePrompt, ...], tokens: dict[str, int]
    ) -> Drop | None:
        """The length policy: under each judge template a prompt must leave room for its verdict in the training record,
        and under each teacher's for a whole reason in the context."""
        limit, context = self._recipe.data.max_tokens, self._recipe.engine.max_model_len
        for template, asked in tokens.items():
            least = asked + len(self._encoders[template].completion("", verdict_text("A")))
            if least > limit:
                detail = f"{least} tokens without a reason under the template {template!r}; data.max_tokens is {limit}"
                return Drop(pair.id, pair.source, "prompt_too_long", detail, "length")
        for name, encoder in self._teachers.items():
            teacher = self._recipe.teachers[name]
            for prompt in prompts:
                read = encoder.encode(
                    teacher_messages(pair, prompt, teacher.mode, self._prompts), generation=True
                )
                if len(read) + teacher.max_tokens > context:
                    detail = f"{len(read) + teacher.max_tokens} tokens with a reason of {name!r}; engine.max_model_len is {context}"
                    return Drop(pair.id, pair.source, "longer_than_context", detail, "length")
        return None


_placer: _Placer | None = None  # of this process


def _begin(recipe: Recipe, measured: bool) -> None:
    global _placer
    _placer = _Placer(recipe, measured)


def _place(rows: list[RawRow | PreferencePair | Drop]) -> list[Candidate | Drop]:
    assert _placer is not None
    pairs = (read_pair(row) if isinstance(row, RawRow) else row for row in rows)
    return [pair if isinstance(pair, Drop) else _placer.candidate(pair) for pair in pairs]


def candidates(recipe: Recipe, *, measured: bool = True) -> Iterator[Candidate | Drop]:
    """Yield every row of the sources as a candidate or a Drop of stage `load`, in the order of the rows.

    Args:
        recipe: names sources, wording, templates and limits.
        measured: count tokens and apply the length policy.
    """
    return map_chunks(_place, source_rows(recipe), chunk=CHUNK, prepare=_begin, arguments=(recipe, measured))


def write_pairs(recipe: Recipe, run: Run) -> dict[str, Any]:
    """Write pairs, prompts, genrm, dropped and contamination.jsonl; return the report on pairs.

    Raises:
        DataError: a source cannot be read, or no pair is left.
    """
    raise NotImplementedError
