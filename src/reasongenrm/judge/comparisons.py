"""Rows of comparisons as prompts to a judge, and the verdicts on the prompts as comparisons."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from reasongenrm.chat.prompts import PromptFile, judge_prompt, placed_prompts
from reasongenrm.config.evaluate import JudgingConfig
from reasongenrm.judge.ask import compare_orders
from reasongenrm.judge.criteria import combine_comparisons, comparison_text, criteria_histories
from reasongenrm.judge.inputs import ComparisonInput, PlacedRow, read_row
from reasongenrm.records import (
    Comparison,
    Completion,
    JudgePrompt,
    PreferencePair,
    Verdict,
    content_id,
    split_criteria,
)


class ComparisonBatch:
    """Rows that are compared together: a row without a rubric is one comparison, one with a rubric is one per criterion.

    Args:
        rows: the number of each row, which errors name, and the row: see `Judge.compare_many`.
        prompt_file: the wording.
        config: orders, and the margin of a tie.
        seed: of placement.

    Attributes:
        prompts: of all rows: for each comparison one, or one per order.
        criteria: the criterion by which each prompt asks; empty without a rubric.

    Raises:
        ConfigError, DataError: see `Judge.compare`.
    """

    def __init__(
        self,
        rows: Iterable[tuple[int, ComparisonInput]],
        prompt_file: PromptFile,
        config: JudgingConfig,
        *,
        seed: int,
    ) -> None:
        self._config = config
        numbered = list(rows)
        self._inputs = [read_row(number, row, "a", "b") for number, row in numbered]
        self._pairs: list[tuple[str, int]] = []  # id of each comparison, and the number of its prompts
        self.prompts: list[JudgePrompt] = []
        self.criteria: list[str] = []
        for (_, row), (turns, [a, b], rubric) in zip(numbered, self._inputs, strict=True):
            names = [criterion.name for criterion in rubric.criteria] if rubric else [""]
            for name, history in zip(names, criteria_histories(turns, rubric, comparison_text), strict=True):
                pair = PreferencePair.make(history, a, b, "")
                if isinstance(row, PlacedRow) and not config.both_orders:
                    placed = [judge_prompt(pair, "AB", prompt_file)]
                else:
                    placed = placed_prompts(pair, prompt_file, seed=seed, both_orders=config.both_orders)
                self._pairs.append((pair.id, len(placed)))
                self.prompts += placed
                self.criteria += [name] * len(placed)

    def comparisons(self, results: Sequence[tuple[Verdict, Sequence[Completion]]]) -> Iterator[Comparison]:
        """Yield the comparison of each row.

        Args:
            results: for each prompt its verdict, and the completions it was read from.
        """
        source, margin = iter(results), self._config.margin
        compared = (
            compare_orders(pair_id, list(islice(source, count)), margin=margin)
            for pair_id, count in self._pairs
        )
        for turns, answers, rubric in self._inputs:
            if rubric is None:
                yield next(compared)
                continue
            by_name = {criterion.name: next(compared) for criterion in rubric.criteria}
            row_id = content_id(split_criteria(turns)[1], *answers, rubric.model_dump())
            yield combine_comparisons(rubric, by_name, comparison_id=row_id, margin=margin)
