"""Stage 1, first part: read the sources and write pairs and judge prompts, as a stream; count every row left out.

Worker processes check, render and measure the rows. Filters that need to see all rows (duplicates, benchmarks, the
report) run in this process, in the order of the rows. Memory does not grow with the input, except for the MinHash index
of near-duplicates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain, islice
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec

from reasongenrm.benchmarks.registry import BENCHMARKS
from reasongenrm.chat.prompts import PromptFile, placed_prompts
from reasongenrm.config.evaluate import BenchmarkConfig
from reasongenrm.config.prepare import DatasetConfig, DecontaminateConfig
from reasongenrm.config.recipe import Recipe
from reasongenrm.console import say
from reasongenrm.data.clean import NearDuplicates, PairKey, clean, filter_pairs, pair_key
from reasongenrm.data.decontaminate import Decontaminator, Match, benchmark_texts
from reasongenrm.data.leaks import LeakDetector, SurfaceDifference, surface_difference
from reasongenrm.data.report import UNKNOWN_LANGUAGE, DataReport, pair_language
from reasongenrm.data.sources import SourceRow, read_pair, source_rows
from reasongenrm.errors import DataError
from reasongenrm.processes import map_chunks
from reasongenrm.reasons.sample import LengthPolicy
from reasongenrm.records import Drop, Letter, PreferencePair
from reasongenrm.run import Run, file_hash
from reasongenrm.store import (
    atomic_writer,
    dump_texts,
    jsonl_writer,
    read_json,
    read_jsonl,
    to_json,
    write_json,
    write_jsonl,
)

CHUNK = 256
"""Rows per task of a worker process."""


@dataclass(frozen=True)
class RenderedPair:
    """A pair with its judge prompts, as a worker process returns it.

    Attributes:
        key: identifies the pair, to find duplicates.
        winners: letter of the chosen answer in each of its judge prompts.
        lines: name of an output file -> the lines to write.
        tokens: length of the longest judge prompt in tokens, per judge template.
        too_long: the Drop of the length policy, or None.
        language: ISO 639-3 code.
        difference: how its answers differ, for the leak detector.
    """

    key: PairKey
    winners: tuple[Letter, ...]
    lines: dict[str, bytes]
    tokens: dict[str, int]
    too_long: Drop | None
    language: str
    difference: SurfaceDifference | None

    @property
    def source(self) -> str:
        """The pair's source."""
        return self.key.source

    @cached_property
    def pair(self) -> PreferencePair:
        """The pair, decoded from its line, so that a worker process sends its texts only once."""
        return msgspec.json.decode(self.lines["pairs"], type=PreferencePair)


def _render(
    recipe: Recipe, prompt_file: PromptFile, lengths: LengthPolicy | None, pair: PreferencePair
) -> RenderedPair:
    prompts = placed_prompts(pair, prompt_file, seed=recipe.seed, both_orders=recipe.data.both_orders)
    winners = tuple(prompt.winner for prompt in prompts)
    lines = {"pairs": dump_texts(pair.to_row()), "prompts": b"".join(map(dump_texts, prompts))}
    if lengths is None:
        return RenderedPair(pair_key(pair), winners, lines, {}, None, UNKNOWN_LANGUAGE, None)
    tokens = lengths.tokens(pair, prompts)
    too_long = lengths.problem(pair, prompts, tokens)
    language, difference = pair_language(pair), surface_difference(pair)
    return RenderedPair(pair_key(pair), winners, lines, tokens, too_long, language, difference)


_render_pair: Callable[[PreferencePair], RenderedPair]
"""`_render` with what a worker process loads once."""


def _start_worker(recipe: Recipe, measure: bool) -> None:
    global _render_pair
    prompt_file = PromptFile.load(recipe.prompts)
    lengths = LengthPolicy(recipe, prompt_file) if measure else None
    _render_pair = partial(_render, recipe, prompt_file, lengths)


def _render_rows(rows: list[SourceRow]) -> list[RenderedPair | Drop]:
    return [pair if isinstance(pair, Drop) else _render_pair(pair) for pair in map(read_pair, rows)]


def rendered_pairs(recipe: Recipe, *, measure: bool = True) -> Iterator[RenderedPair | Drop]:
    """Yield every row of the sources as a rendered pair or a Drop of stage `load`, in the order of the rows.

    Args:
        measure: count tokens, apply the length policy, detect languages, and compare the answers for leaks.
    """
    rows = source_rows(recipe.data.sources, recipe.limit)
    return map_chunks(_render_rows, rows, chunk=CHUNK, prepare=_start_worker, arguments=(recipe, measure))


def _decontaminator(
    config: DecontaminateConfig, benchmarks: Iterable[BenchmarkConfig], against: Iterable[DatasetConfig] = ()
) -> Decontaminator:
    """Read the benchmarks that training data must not contain."""
    files = [
        (one.location, BENCHMARKS[one.kind].sources(one.location, one.split), one.revision)
        for one in benchmarks
    ]
    files += [(one.path, [(one.path, one.split)], one.revision) for one in against]
    texts = (
        (name, chain.from_iterable(benchmark_texts(f, split=s, revision=revision) for f, s in sources))
        for name, sources, revision in files
    )
    return Decontaminator(config, texts)


def _benchmark_hashes(recipe: Recipe) -> dict[str, str]:
    return {one.location: file_hash(one.location) for one in recipe.evaluate.benchmarks.values()}


def compare_new_benchmarks(recipe: Recipe, run: Run, pairs_file: Path) -> None:
    """Compare a run's pairs with the benchmarks that were added, or whose files have changed, since they were written.

    No pair is dropped, since reasons and judges may have been made with it; matches are added to `contamination.jsonl`
    and to the report on pairs, and printed.

    Args:
        pairs_file: the report on pairs.

    Raises:
        DataError: a benchmark cannot be read.
    """
    report, config = read_json(pairs_file), recipe.data.decontaminate
    hashes = _benchmark_hashes(recipe) if config else {}
    new = [
        one
        for one in recipe.evaluate.benchmarks.values()
        if hashes.get(one.location) != report["compared"].get(one.location)
    ]
    if config is None or not new:
        return
    decontaminator, matches, overlapping = _decontaminator(config, new), list[Match](), 0
    rows = (msgspec.convert(row, PreferencePair) for row in read_jsonl(run.path("pairs.jsonl")))
    while chunk := list(islice(rows, CHUNK)):
        overlapping += sum(problem is not None for problem in decontaminator.problems(chunk, matches.append))
    path, names = run.path("contamination.jsonl"), {one.location for one in new}
    kept = [row for row in read_jsonl(path) if row["benchmark"] not in names]
    write_jsonl(path, [*kept, *map(to_json, matches)])
    for name, rows_of_section in decontaminator.to_dict().items():
        before = [row for row in report["contamination"][name] if row["benchmark"] not in names]
        report["contamination"][name] = before + rows_of_section
    report["compared"] |= hashes
    write_json(pairs_file, report)
    run.path("data_report.json").unlink(missing_ok=True)  # so that it is written again
    if overlapping:
        say(
            f"{overlapping} pairs overlap benchmarks that were added after they were written ({', '.join(sorted(names))}): "
            "see contamination.jsonl; --redo pairs drops them, and does all that follows again"
        )


def write_pairs(recipe: Recipe, run: Run) -> dict[str, Any]:
    """Write `pairs.jsonl`, `prompts.jsonl`, `dropped.jsonl` and `contamination.jsonl`; return the report on pairs.

    Raises:
        ConfigError, EngineError: a tokenizer, a template or a benchmark cannot be loaded.
        DataError: a source cannot be read, or no pair is left.
    """
    report = DataReport({judge.template: recipe.data.max_tokens for judge in recipe.judges.values()})
    leaks = LeakDetector()
    config, decontaminator = recipe.data.decontaminate, None
    if config:
        decontaminator = _decontaminator(config, recipe.evaluate.benchmarks.values(), config.against)
    first_drop = ""
    pair_count = 0
    with ExitStack() as stack:
        outputs = {
            name: stack.enter_context(atomic_writer(run.path(f"{name}.jsonl")))
            for name in ("pairs", "prompts")
        }
        write_drop = stack.enter_context(jsonl_writer(run.path("dropped.jsonl")))
        write_match = stack.enter_context(jsonl_writer(run.path("contamination.jsonl")))

        def on_drop(drop: Drop) -> None:
            nonlocal first_drop
            first_drop = first_drop or f"; the first row dropped: {drop.location}: {drop.detail}"
            write_drop(to_json(drop))
            report.add_drop(drop)

        rows = report.count_loaded(rendered_pairs(recipe))
        pairs = clean(rows, drop_sources=recipe.data.drop_sources, on_drop=on_drop, key=attrgetter("key"))
        if recipe.data.near_duplicates:
            pairs = filter_pairs(pairs, NearDuplicates(recipe.data.near_duplicates).problems, on_drop)
        if decontaminator:
            find_problems = partial(
                decontaminator.problems, on_match=lambda match: write_match(to_json(match))
            )
            pairs = filter_pairs(pairs, find_problems, on_drop)
        for rendered in pairs:
            for template, tokens in rendered.tokens.items():
                report.add_tokens(template, tokens)
            if rendered.too_long:
                on_drop(rendered.too_long)
                continue
            pair_count += 1
            for name, file in outputs.items():
                file.write(rendered.lines[name])
            report.add_kept(rendered.pair, rendered.language)
            leaks.add(rendered.pair, rendered.difference)
            for winner in rendered.winners:
                report.add_placement(rendered.source, winner)
                leaks.add_placement(rendered.pair, winner)
        if not pair_count:
            hint = "correct the data, or raise data.max_tokens"
            raise DataError(f"no pair is left{first_drop}", location="data.sources", hint=hint)
    sections = {"leaks": leaks.to_dict()}
    if decontaminator:
        sections["contamination"] = decontaminator.to_dict()
    return report.to_dict() | sections | {"compared": _benchmark_hashes(recipe) if decontaminator else {}}
