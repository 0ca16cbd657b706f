"""Examples to click in the tab Try: of the recipe's run, or of this file."""

from __future__ import annotations

from itertools import islice

from reasongenrm.app.sources import AppSources
from reasongenrm.errors import ReasonGenRMError
from reasongenrm.store import read_jsonl

OWN = [
    [
        "What is the boiling point of water at sea level?",
        "Water boils at 100 °C (212 °F) at sea level, where the pressure is about 101 kPa.",
        "It boils at 90 °C, and a little earlier with salt.",
    ],
    [
        "Write a sentence with the word “river” in it.",
        "The lake was calm.",
        "After the storm the river ran brown and fast.",
    ],
    [
        "My train leaves at 14:10 and the ride takes 95 minutes. When do I arrive?",
        "You arrive at 15:45: one hour after 14:10 is 15:10, and 35 minutes more is 15:45.",
        "95 minutes are 1 hour and 25 minutes, so you arrive at 15:35.",
    ],
]
"""Prompt, answer A, answer B."""

COUNT = 4
LONGEST = 2000
"""Characters of a row of a run; longer ones are no examples."""


def example_rows(sources: AppSources) -> list[list[str]]:
    """Return examples as rows of prompt, answer A, answer B: pairs of one turn from the recipe's run, if there are any.

    A toy judge knows the words of its own world alone. The chosen answer is A in every second row.
    """
    if sources.recipe is None:
        return OWN
    try:
        pairs = read_jsonl(sources.recipe.folder / "pairs.jsonl")
        short = (pair for pair in pairs if len(pair["history"]) == 1 and len(str(pair)) <= LONGEST)
        rows = [
            [pair["history"][0]["content"], *(pair["chosen"], pair["rejected"])[:: 1 - 2 * (number % 2)]]
            for number, pair in enumerate(islice(short, COUNT))
        ]
    except (ReasonGenRMError, KeyError, TypeError):  # stage 1 has not run, or the file is not its own
        rows = []
    return rows or OWN
