"""Ranked answers of one annotator or several (1 is best) -> every pair of answers of unequal mean rank."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path

from reasongenrm.data.ranked_rows import RankedPrompt, read_ranked
from reasongenrm.records import Drop, PreferencePair


def load_ranked(path: str) -> Iterator[PreferencePair | Drop]:
    """Read a whole file of ranked answers and return its dropped rows, in file order, then its pairs, prompt by prompt.

    A CSV file has a header with `prompt,answer,rank`; a line of JSONL holds the same keys, where `prompt` is a text
    or a list of messages, or a whole prompt with `answers` and `ranks` (lists of one length). `annotator` is optional;
    other columns are ignored. A row is not a pair: k answers of unequal ranks become k(k-1)/2 pairs, and a row that is
    dropped, or a prompt that is left with nothing to compare, becomes one Drop (stage `load`; `where` is the
    `file:line` at which the row begins).

    Of several annotators the mean rank decides, taken over ranks within the prompt (Borda's count: ties share the mean
    of their ranks, so the scale that an annotator writes in does not matter). Two answers are compared by the
    annotators who ranked both of them: one who did not rank all answers speaks for those they ranked, and no rank
    is made up for the others. Answers of one mean rank are tied and not paired, nor are two that nobody ranked both.

    Raises:
        DataError: no such file; or a CSV that is not UTF-8, lacks a column or has it twice, or whose quotes do not
            match (then nobody can say where a row ends, so no row of the file can be trusted).
    """
    prompts, drops = read_ranked(path)
    return _compare(prompts, drops, Path(path).stem)


def _compare(prompts: list[RankedPrompt], drops: list[Drop], source: str) -> Iterator[PreferencePair | Drop]:
    yield from drops
    for prompt in prompts:
        pairs = list(_pairs(prompt))
        if not pairs:
            count = len(prompt.answers)
            problem = (
                "Only one usable answer" if count == 1 else f"No two of the {count} answers differ in rank"
            )
            detail = f"{problem} for this prompt; give it answers of at least two ranks."
            yield Drop(prompt.where, source, "nothing_to_compare", detail, "load")
        for better, worse, distance in pairs:
            texts = prompt.answers[better].text, prompt.answers[worse].text
            yield PreferencePair.make(prompt.history, *texts, source, distance=distance)


def _pairs(prompt: RankedPrompt) -> Iterator[tuple[int, int, float]]:
    """Yield the places of the better and the worse answer of each pair, best answers first, and how many ranks lie
    between them: the mean over the annotators who ranked both."""
    ranks = prompt.mean_ranks()
    means = {place: _mean(place, ranks) for place in range(len(prompt.answers))}
    for one, other in combinations(
        sorted(means, key=means.__getitem__), 2
    ):  # stable: ties stay in file order
        leads = [given[other] - given[one] for given in ranks.values() if one in given and other in given]
        if lead := sum(leads):
            pair = (one, other) if lead > 0 else (other, one)
            yield *pair, abs(lead) / len(leads)


def _mean(place: int, ranks: Mapping[str, Mapping[int, float]]) -> float:
    given = [by_place[place] for by_place in ranks.values() if place in by_place]
    return sum(given) / len(given)
