"""Tables and figures of ranked answers for notebooks/practice.ipynb: ranks, agreement, pairs, accuracy, score against rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from statistics import fmean

import numpy as np

from reasongenrm.data.ranked import RankedPrompt
from reasongenrm.metrics.agreement import kendall_w, pairwise_tau_b
from reasongenrm.metrics.intervals import clustered_interval, wilson_interval
from reasongenrm.records import PreferencePair
from reasongenrm.report.charts import encode_png, figure
from reasongenrm.report.tables import MISSING, grid, one_line, with_interval
from reasongenrm.scalar.chance import chance_interval
from reasongenrm.scalar.inputs import prompt_text
from reasongenrm.scalar.metrics import AnswerScore, ScalarMetrics, Statistic, answers_by_prompt, ranked_groups

LONGER = "longer is better"
"""Name of the annotator that `with_length_ranks` adds."""


def _words(text: str) -> int:
    return len(text.split())


def _by_rank(prompt: RankedPrompt) -> list[tuple[float, str]]:
    """Return the answers with their mean rank over the annotators, the best first."""
    ranks = prompt.mean_ranks().values()
    means = [fmean(by_index[i] for by_index in ranks if i in by_index) for i, _ in enumerate(prompt.answers)]
    return sorted(zip(means, (answer.text for answer in prompt.answers), strict=True))


def rank_table(prompts: Sequence[RankedPrompt], longest: int = 60) -> str:
    """Return a Markdown table of the answers to each prompt, the best first, with their ranks and lengths.

    Args:
        prompts: as `read_ranked` returns them.
        longest: characters of a text that are shown.
    """
    rows = [
        (one_line(prompt_text(prompt.history), 34), f"{rank:g}", _words(text), one_line(text, longest))
        for prompt in prompts
        for rank, text in _by_rank(prompt)
    ]
    return grid(["prompt", "rank", "words", "answer"], rows, text_columns=4)


def length_figure(prompts: Sequence[RankedPrompt]) -> bytes:
    """Draw the length of each answer over its rank, a line per prompt, and return a PNG."""
    drawing, [[axes]] = figure(3.8)
    for prompt in prompts:
        answers = _by_rank(prompt)
        label = one_line(prompt_text(prompt.history), 40)
        axes.plot([rank for rank, _ in answers], [_words(text) for _, text in answers], "o-", label=label)
    axes.set(xlabel="rank (1 is best)", ylabel="words", title="length of the answers")
    axes.set_xticks(range(1, 1 + max(len(prompt.answers) for prompt in prompts)))
    axes.grid(alpha=0.3)
    legend = drawing.legend(loc="outside lower center", ncols=2, fontsize=7, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return encode_png(drawing)


def with_length_ranks(prompts: Sequence[RankedPrompt]) -> list[RankedPrompt]:
    """Return the prompts with one more annotator, who looks at the number of words alone: the longest answer is the best."""
    return [
        replace(
            prompt,
            answers=[
                replace(answer, ranks=answer.ranks | {LONGER: rank})
                for answer, rank in zip(prompt.answers, _length_ranks(prompt), strict=True)
            ],
        )
        for prompt in prompts
    ]


def _length_ranks(prompt: RankedPrompt) -> list[float]:
    from scipy.stats import rankdata

    ranks: list[float] = rankdata([-_words(answer.text) for answer in prompt.answers]).tolist()
    return ranks


def agreement_table(prompts: Sequence[RankedPrompt]) -> str:
    """Return a Markdown table of the annotators' agreement: Kendall's W and the mean tau-b of each prompt, and their means.

    A prompt without two annotators who ranked all of its answers has no W.
    """
    rows: list[tuple[str, ...]] = []
    columns: list[tuple[float | None, float | None]] = []
    for prompt in prompts:
        by_annotator = prompt.mean_ranks()
        whole = [
            [ranks[i] for i in range(len(prompt.answers))]
            for ranks in by_annotator.values()
            if len(ranks) == len(prompt.answers)
        ]
        result = kendall_w(whole) if len(whole) > 1 and len(prompt.answers) > 1 else None
        taus = [tau for tau in pairwise_tau_b(by_annotator) if tau is not None]
        columns.append((result and result[0], fmean(taus) if taus else None))
        rows.append((one_line(prompt_text(prompt.history), 60), str(len(by_annotator)), *_cells(columns[-1])))
    means = [
        fmean(values) if (values := [value for value in column if value is not None]) else None
        for column in zip(*columns, strict=True)
    ]
    headings = ["prompt", "annotators", "Kendall's W", "mean τ-b"]
    return grid(headings, [*rows, ("mean", "", *_cells(means))])


def _cells(values: Sequence[float | None]) -> list[str]:
    return [MISSING if value is None else f"{value:.2f}" for value in values]


def pair_table(pairs: Sequence[PreferencePair], count: int = 6, longest: int = 44) -> str:
    """Return a Markdown table of the first pairs, with the distance of their ranks."""
    rows = [
        (
            one_line(prompt_text(pair.history), 30),
            one_line(pair.chosen, longest),
            one_line(pair.rejected, longest),
            MISSING if pair.distance is None else f"{pair.distance:g}",
        )
        for pair in pairs[:count]
    ]
    return grid(["prompt", "chosen", "rejected", "ranks apart"], rows, text_columns=3)


def accuracy_table(results: Mapping[str, tuple[int, int]]) -> str:
    """Return a Markdown table of pair accuracies, each with its Wilson interval and the interval of guesses, in percent.

    Args:
        results: name -> (pairs in the right order, pairs).
    """
    rows = []
    for name, (right, pairs) in results.items():
        low, high = chance_interval(pairs)
        accuracy = with_interval(right / pairs, wilson_interval(right, pairs))
        rows.append((name, f"{pairs:,}", accuracy, f"{100 * low:.1f} – {100 * high:.1f}"))
    headings = ["pairs", "number", "in the right order, %", "guesses, 95%"]
    return grid(headings, rows)


def answer_table(answers: Sequence[AnswerScore], prompts: int = 4) -> str:
    """Return a Markdown table of the answers to the first prompts, by score, the highest first."""
    rows = [
        (
            answer.prompt,
            answer.answer,
            MISSING if answer.rank is None else f"{answer.rank:g}",
            f"{answer.score:+.2f}",
        )
        for group in answers_by_prompt(answers)[:prompts]
        for answer in sorted(group, key=lambda answer: -answer.score)
    ]
    return grid(["prompt", "answer", "rank", "score"], rows, text_columns=2)


def score_rank_figure(answers: Sequence[AnswerScore], metrics: ScalarMetrics, title: str) -> bytes:
    """Draw the score of each ranked answer over its rank, with the mean of each rank and its interval, and return a PNG.

    The 95% interval resamples whole prompts. The title has the mean over prompts of Spearman's rho and Kendall's tau-b.

    Args:
        answers: scored; only prompts with two different ranks are drawn, as in the correlations.
        metrics: of these answers.
        title: the beginning of the text above the picture.
    """
    drawing, [[axes]] = figure(3.6)
    by_place = _by_place(answers)
    source = np.random.default_rng(0)
    for place, same in by_place.items():
        sides = place + source.uniform(-0.12, 0.12, len(same))  # equal ranks beside each other
        axes.scatter(sides, [answer.score for answer in same], s=12, alpha=0.4, color="C0")
        mean = fmean(answer.score for answer in same)
        by_prompt = [[answer.score for answer in one] for one in answers_by_prompt(same)]
        totals, counts = [sum(one) for one in by_prompt], [len(one) for one in by_prompt]
        low, high = clustered_interval(totals, counts, seed=metrics.seed) or (mean, mean)
        ends = [[max(mean - low, 0)], [max(high - mean, 0)]]
        label = "mean, 95% interval" if place == 1 else None
        axes.errorbar([place], [mean], yerr=ends, fmt="D", color="C3", capsize=5, markersize=5, label=label)
    axes.set(xlabel="rank in the prompt (1 is best; ties share a rank)", ylabel="score Z (nats)")
    axes.set_xticks(list(by_place))
    correlations = f"ρ = {_estimate(metrics.spearman)}, τ-b = {_estimate(metrics.kendall)}"
    axes.set_title(f"{title}\n{correlations}", fontsize=10, parse_math=False)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return encode_png(drawing)


def _by_place(answers: Sequence[AnswerScore]) -> dict[int, list[AnswerScore]]:
    """Return the place of a rank among the different ranks of its prompt, from 1 -> the answers; see `ranked_groups`."""
    by_place: dict[int, list[AnswerScore]] = {}
    for group in ranked_groups(answers):
        for place, (_, tied) in enumerate(groupby(group, lambda answer: answer.rank), 1):
            by_place.setdefault(place, []).extend(tied)
    return dict(sorted(by_place.items()))


def _estimate(statistic: Statistic) -> str:
    if statistic.value is None:
        return MISSING
    interval = "" if statistic.interval is None else " [{:.2f}, {:.2f}]".format(*statistic.interval)
    return f"{statistic.value:.2f}{interval}"


def correlation_table(results: Mapping[str, ScalarMetrics]) -> str:
    """Return a Markdown table of pair accuracy in percent and of both correlations, with their 95% intervals over prompts."""
    rows = []
    for name, metrics in results.items():
        accuracy = with_interval(metrics.accuracy.value, metrics.accuracy.interval)
        correlations = (_estimate(metrics.spearman), _estimate(metrics.kendall))
        rows.append((name, f"{metrics.pairs:,}", f"{metrics.accuracy.prompts:,}", accuracy, *correlations))
    headings = ["answers", "pairs", "prompts", "accuracy, %", "Spearman's ρ", "Kendall's τ-b"]
    return grid(headings, rows)
