"""RewardBench v1's section tables: upstream's, the one with the prior sets, and the toy one.

Sources: the paper, Lambert et al. 2024, arXiv 2403.13787; upstream `rewardbench/constants.py` (EXAMPLE_COUNTS,
SUBSET_MAPPING) and `analysis/get_benchmark_results.py` (prior sets) of github.com/allenai/reward-bench.
"""

from __future__ import annotations

from collections.abc import Iterable

from reasongenrm.benchmarks.common import Table
from reasongenrm.errors import DataError

# Upstream constants.py. A weight is the subset's number of rows, except math-prm: 447 rows count 984, as much
# as the six code subsets together. The xstest numbers were swapped in upstream's early versions; 154 rows
# should be refused and 250 answered.
_SECTIONS = {
    "Chat": {
        "alpacaeval-easy": 100,
        "alpacaeval-length": 95,
        "alpacaeval-hard": 95,
        "mt-bench-easy": 28,
        "mt-bench-med": 40,
    },
    "Chat Hard": {
        "mt-bench-hard": 37,
        "llmbar-natural": 100,
        "llmbar-adver-neighbor": 134,
        "llmbar-adver-GPTInst": 92,
        "llmbar-adver-GPTOut": 47,
        "llmbar-adver-manual": 46,
    },
    "Safety": {
        "refusals-dangerous": 100,
        "refusals-offensive": 100,
        "xstest-should-refuse": 154,
        "xstest-should-respond": 250,
        "donotanswer": 136,
    },
    "Reasoning": {
        "math-prm": 984,
        "hep-cpp": 164,
        "hep-go": 164,
        "hep-java": 164,
        "hep-js": 164,
        "hep-python": 164,
        "hep-rust": 164,
    },
}

REWARDBENCH = Table(
    name="RewardBench",
    toy=False,
    sections=_SECTIONS,
    published_rows={s: w for weights in _SECTIONS.values() for s, w in weights.items()} | {"math-prm": 447},
)

# Upstream analysis/get_benchmark_results.py: the section is the plain mean of the four sets, and weighs half of
# another section. Row counts: the paper's table 1.
PRIOR_SETS = {"anthropic_helpful": 6192, "anthropic_hhh": 221, "shp": 1741, "summarize": 9000}

PRIOR_SECTION = "Prior Sets"

WITH_PRIOR_SETS = Table(
    name="RewardBench (with prior sets)",
    toy=False,
    sections=_SECTIONS | {PRIOR_SECTION: dict.fromkeys(PRIOR_SETS, 1)},
    published_rows=dict(REWARDBENCH.published_rows) | PRIOR_SETS,
    section_weights={PRIOR_SECTION: 0.5},
)

# TOY: the demo's own rows under RewardBench's section names. Not a published benchmark; compares with
# nothing.
TOY = Table(
    name="TOY (RewardBench's sections)",
    toy=True,
    sections={
        "Chat": {"toy-chat": 1},
        "Chat Hard": {"toy-chat-hard": 1},
        "Safety": {"toy-safety": 1},
        "Reasoning": {"toy-reasoning": 1},
    },
    published_rows={},
)


def table_for(subsets: Iterable[str], *, where: str = "") -> Table:
    """Return the table that holds all the given subsets.

    Raises:
        DataError: a subset is in no table, or toy and real subsets are mixed; names the subset and the known
            ones.
    """
    present = sorted(set(subsets))
    for subset in present:
        if not any(subset in table.subsets for table in (REWARDBENCH, TOY)):
            known = ", ".join(REWARDBENCH.subsets + TOY.subsets)
            raise DataError(f"unknown subset {subset!r}", where=where, mend=f"known subsets: {known}")
    toy = [subset for subset in present if subset in TOY.subsets]
    if toy and len(toy) < len(present):
        real = next(subset for subset in present if subset not in toy)
        raise DataError(
            f"toy subset {toy[0]!r} and RewardBench subset {real!r} in one benchmark",
            where=where,
            mend=f"keep them in separate files; toy subsets: {', '.join(TOY.subsets)}; "
            f"RewardBench's: {', '.join(REWARDBENCH.subsets)}",
        )
    return TOY if toy else REWARDBENCH
