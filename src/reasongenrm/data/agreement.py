"""How far annotators agree in their ranks: Kendall's W, and the mean of Kendall's tau-b over pairs of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations
from typing import Any

from reasongenrm.data.ranked import RankedPrompt, read_ranked
from reasongenrm.metrics.agreement import kendall_w
from reasongenrm.records import content_id


def agreement(path: str) -> dict[str, Any] | None:
    """Return the annotators' agreement in a file of ranked answers as plain JSON values, or None with fewer than two.

    A prompt's W is over the annotators who ranked all of its answers, of whom there must be two; `p_value` is
    the chance of a W that large among random ranks, from m(n−1)W ~ χ²(n−1) (the Friedman test's statistic), which is
    rough for few annotators or answers.

    Returns:
        `annotators` and `prompts` in the file; `rated`, the prompts that have a W; `mean_w` over these (None where
        there are none); `per_prompt`: for each of these `where`, `history` (content hash of the prompt's turns),
        `answers`, `annotators`, `w` and `p_value`.

    Raises:
        DataError: as `load_ranked`.
    """
    prompts, _ = read_ranked(path)
    names = {name for prompt in prompts for answer in prompt.answers for name in answer.ranks}
    if len(names) < 2:
        return None
    rated = [found for prompt in prompts if (found := _concordance(prompt))]
    return {
        "annotators": len(names),
        "prompts": len(prompts),
        "rated": len(rated),
        "mean_w": round(sum(row["w"] for row in rated) / len(rated), 6) if rated else None,
        "per_prompt": rated,
    }


def pairwise_tau(path: str) -> dict[str, Any] | None:
    """Return the mean of Kendall's tau-b over pairs of annotators, or None with fewer than two annotators.

    There is one tau-b, in [-1, 1], per prompt and pair of annotators, over the answers that both ranked; of at least
    two. Where one of the two ties all of them there is no order to correlate, and no tau-b. Source: M. G. Kendall,
    "The Treatment of Ties in Ranking Problems", Biometrika 33 (1945).

    Returns:
        `compared`: how many there are; `undefined`: how many are none for the ties; `mean_tau_b` over the compared
        ones (None where there are none).

    Raises:
        DataError: as `load_ranked`.
    """
    prompts, _ = read_ranked(path)
    if len({name for prompt in prompts for answer in prompt.answers for name in answer.ranks}) < 2:
        return None
    found = [tau for prompt in prompts for tau in _taus(prompt)]
    taus = [tau for tau in found if tau is not None]
    return {
        "compared": len(taus),
        "undefined": len(found) - len(taus),
        "mean_tau_b": round(math.fsum(taus) / len(taus), 6) if taus else None,
    }


def _taus(prompt: RankedPrompt) -> Iterator[float | None]:
    from scipy.stats import kendalltau

    for one, other in combinations(prompt.mean_ranks().values(), 2):
        shared = [place for place in one if place in other]
        ranks = [one[place] for place in shared], [other[place] for place in shared]
        if len(shared) >= 2:
            # scipy gives NaN for a constant row, too, but some versions with a warning.
            yield None if 1 in map(len, map(set, ranks)) else float(kendalltau(*ranks).statistic)


def _concordance(prompt: RankedPrompt) -> dict[str, Any] | None:
    from scipy.stats import chi2

    n = len(prompt.answers)
    rows = [[given[place] for place in range(n)] for given in prompt.mean_ranks().values() if len(given) == n]
    w = kendall_w(rows) if n >= 2 and len(rows) >= 2 else None
    if w is None:
        return None
    return {
        "location": prompt.location,
        "history": content_id(prompt.history),
        "answers": n,
        "annotators": len(rows),
        "w": round(w, 6),
        "p_value": round(float(chi2.sf(len(rows) * (n - 1) * w, n - 1)), 6),
    }
