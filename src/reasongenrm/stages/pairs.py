"""First step of stage 1: rows become placed and rendered pairs, as a stream; what is left out is counted.

Rows are checked, rendered and measured in worker processes; what needs to see all rows (duplicates, the report) is
done here, in their order. Memory does not grow with the input, but for what near duplicates are told by.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from operator import attrgetter
from typing import Any

import msgspec

from reasongenrm.benchmarks.registry import BENCHMARKS
from reasongenrm.chat.encoder import ChatEncoder, judge_encoder, load_tokenizer
from reasongenrm.chat.grammar import verdict_text
from reasongenrm.chat.prompts import PromptFile, judge_prompt, place, swap
from reasongenrm.config.prepare import BenchmarkFile, SourceConfig
from reasongenrm.config.recipe import Recipe
from reasongenrm.data.benchmark_texts import benchmark_texts
from reasongenrm.data.clean import Sight, clean, sight
from reasongenrm.data.decontaminate import Contamination, Decontaminator, Match, decontaminate
from reasongenrm.data.leaks import Comparison, LeakDetector, compare
from reasongenrm.data.near import drop_near_duplicates
from reasongenrm.data.ranked import load_ranked
from reasongenrm.data.report import UNKNOWN, DataReport, pair_language
from reasongenrm.data.sources import raw_pairs, read_pair
from reasongenrm.errors import DataError
from reasongenrm.processes import map_chunks
from reasongenrm.reasons.sample import teacher_encoder, teacher_messages
from reasongenrm.records import Drop, JudgePrompt, Letter, PreferencePair
from reasongenrm.rows.files import RawLine, RawRow
from reasongenrm.run import Run
from reasongenrm.store import dump_texts, jsonl_writer, replacing, to_json

CHUNK = 256
"""Rows that a worker process takes at a time."""


@dataclass(frozen=True)
class Candidate:
    """A pair as it would be written, before it is known whether it came before.

    Attributes:
        seen: what tells whether it came before.
        winners: the letter of the chosen answer, for each of its judge prompts.
        lines: per output file, the lines to write.
        tokens: length of the longest judge prompt per judge template, in tokens.
        too_long: why it breaks the length policy, or None.
        language: ISO 639-3 code.
        compared: what the leak detector looks at.
    """

    seen: Sight
    winners: tuple[Letter, ...]
    lines: dict[str, bytes]
    tokens: dict[str, int]
    too_long: Drop | None
    language: str
    compared: Comparison | None

    @property
    def source(self) -> str:
        """The pair's source."""
        return self.seen.source

    @cached_property
    def pair(self) -> PreferencePair:
        """The pair, read from its line: the texts come from the worker once."""
        return msgspec.json.decode(self.lines["pairs"], type=PreferencePair)


def source_rows(
    sources: Sequence[SourceConfig], limit: int | None
) -> Iterator[RawLine | RawRow | PreferencePair | Drop]:
    """Yield the rows of all sources, at most `limit` of them."""

    def rows() -> Iterator[Iterable[RawLine | RawRow | PreferencePair | Drop]]:
        for source in sources:
            if source.kind == "ranked":
                yield load_ranked(source.path)
            else:
                yield raw_pairs(source.path, split=source.split, revision=source.revision)

    return islice(chain.from_iterable(rows()), limit)


def load_sources(sources: Sequence[SourceConfig], limit: int | None) -> Iterator[PreferencePair | Drop]:
    """Yield all sources' rows as pairs."""
    return (row if isinstance(row, PreferencePair) else read_pair(row) for row in source_rows(sources, limit))


class _Placer:
    """What a worker process knows: wording, orders, and the encoders for the length policy."""

    def __init__(self, recipe: Recipe, measured: bool) -> None:
        self._recipe, self._measured = recipe, measured
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
        orders = (order, swap(order)) if self._recipe.data.both_orders else (order,)
        prompts = tuple(judge_prompt(pair, o, self._prompts) for o in orders)
        tokens = self._tokens(prompts)
        lines = {
            "pairs": dump_texts(pair),
            "prompts": b"".join(dump_texts(prompt) for prompt in prompts),
        }
        winners = tuple(prompt.winner for prompt in prompts)
        if not self._measured:
            return Candidate(sight(pair), winners, lines, {}, None, UNKNOWN, None)
        too_long = self._too_long(pair, prompts, tokens)
        return Candidate(sight(pair), winners, lines, tokens, too_long, pair_language(pair), compare(pair))

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
            least = asked + len(
                self._encoders[template].completion("", verdict_text("A", self._prompts.verdict))
            )
            if least > limit:
                detail = f"{least} tokens without a reason under the template {template!r}; data.max_tokens is {limit}"
                return Drop(pair.id, pair.source, "prompt_too_long", detail, "length")
        for name, encoder in self._teachers.items():
            teacher = self._recipe.teachers[name]
            room = context - teacher.max_tokens
            for prompt in prompts:
                read = teacher_messages(pair, prompt, teacher.mode, self._prompts)
                # No tokenizer makes more tokens than bytes, and most prompts are far below the limit.
                if len(read[0]["content"].encode("utf-8")) + encoder.frame(read) <= room:
                    continue
                length = len(encoder.encode(read, generation=True))
                if length > room:
                    detail = (
                        f"{length + teacher.max_tokens} tokens with a reason of {name!r}; "
                        f"engine.max_model_len is {context}"
                    )
                    return Drop(pair.id, pair.source, "longer_than_context", detail, "length")
        return None


_placer: _Placer | None = None  # of this process


def _begin(recipe: Recipe, measured: bool) -> None:
    global _placer
    _placer = _Placer(recipe, measured)


def _place(rows: list[RawLine | RawRow | PreferencePair | Drop]) -> list[Candidate | Drop]:
    assert _placer is not None
    pairs = (row if isinstance(row, PreferencePair) else read_pair(row) for row in rows)
    return [pair if isinstance(pair, Drop) else _placer.candidate(pair) for pair in pairs]


def candidates(recipe: Recipe, *, measured: bool = True) -> Iterator[Candidate | Drop]:
    """Yield every row of the sources as a candidate or a Drop of stage `load`, in the order of the rows.

    Args:
        recipe: names sources, wording, templates and limits.
        measured: count tokens, apply the length policy, tell languages, look for leaks.
    """
    return map_chunks(
        _place,
        source_rows(recipe.data.sources, recipe.limit),
        chunk=CHUNK,
        prepare=_begin,
        arguments=(recipe, measured),
    )


def _benchmarks(recipe: Recipe) -> Decontaminator | None:
    """Read the benchmarks that no pair may hold."""
    if recipe.data.decontaminate is None:
        return None
    own = [
        BenchmarkFile(
            path=config.location,
            split=config.split or BENCHMARKS[config.kind].split,
            revision=config.revision,
        )
        for config in recipe.evaluate.benchmarks.values()
    ]
    files = [*own, *recipe.data.decontaminate.against]
    rows = [(f.path, benchmark_texts(f.path, split=f.split, revision=f.revision)) for f in files]
    return Decontaminator(recipe.data.decontaminate, rows)


def write_pairs(recipe: Recipe, run: Run) -> dict[str, Any]:
    """Write pairs, prompts, dropped and contamination.jsonl; return the report on pairs.

    Raises:
        DataError: a source cannot be read, or no pair is left.
    """
    limit = recipe.data.max_tokens
    report = DataReport({judge.template: limit for judge in recipe.judges.values()})
    leaks = LeakDetector()
    benchmarks = _benchmarks(recipe)
    contamination = Contamination(benchmarks.read) if benchmarks else None
    first: list[Drop] = []
    kept = 0
    with ExitStack() as stack:
        out = {
            name: stack.enter_context(replacing(run.path(f"{name}.jsonl"))) for name in ("pairs", "prompts")
        }
        dropped = stack.enter_context(jsonl_writer(run.path("dropped.jsonl")))
        matched = stack.enter_context(jsonl_writer(run.path("contamination.jsonl")))

        def on_drop(drop: Drop) -> None:
            dropped(to_json(drop))
            report.dropped(drop)
            if not first:
                first.append(drop)

        def on_match(match: Match) -> None:
            matched(to_json(match))
            assert contamination is not None
            contamination.add(match)

        rows = clean(
            report.watch(candidates(recipe)),
            drop_sources=recipe.data.drop_sources,
            on_drop=on_drop,
            look=attrgetter("seen"),
        )
        if recipe.data.near_duplicates:
            rows = drop_near_duplicates(rows, recipe.data.near_duplicates, on_drop)
        if benchmarks:
            rows = decontaminate(rows, benchmarks, on_drop, on_match)
        for candidate in rows:
            for template, tokens in candidate.tokens.items():
                report.tokens(template, tokens)
            if candidate.too_long:
                on_drop(candidate.too_long)
                continue
            kept += 1
            for name, file in out.items():
                file.write(candidate.lines[name])
            report.kept(candidate.pair, candidate.language)
            leaks.add(candidate.pair, candidate.compared)
            for winner in candidate.winners:
                report.placed(candidate.pair.source, winner)
                leaks.placed(candidate.pair, winner)
        if not kept:
            told = f"; the first one dropped: {first[0].location}: {first[0].detail}" if first else ""
            hint = "mend the data, or raise data.max_tokens"
            raise DataError(f"no pair is left{told}", location="data.sources", hint=hint)
    report.section("leaks", leaks.to_dict())
    if contamination is not None:
        report.section("contamination", contamination.to_dict())
    return report.to_dict()
