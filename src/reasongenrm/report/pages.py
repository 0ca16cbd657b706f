"""HTML pages without outside resources: escaped values, a content policy, and rows embedded as JSON."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from reasongenrm.metrics.diagnostics import probability_right
from reasongenrm.records import PairResult
from reasongenrm.report.run_files import BenchmarkRun, ModelRun

LONGEST = 20_000
"""Characters of a text up to which all of it is shown."""


RowOutcome = Literal["right", "wrong", "inconsistent", "tie", "unread"]


OUTCOME_NOTES: Mapping[RowOutcome, str] = {
    "right": "right in every order",
    "wrong": "wrong in every order",
    "inconsistent": "right in one order, wrong in the other",
    "tie": "a tie, and nothing unread",
    "unread": "unparsed, truncated or an error in some order",
}


_UNREAD = {"unparsed", "truncated", "error"}


# None of these can end a <script>, begin a comment or end a line of a script once they are written as escapes.
_ESCAPES = {character: f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def row_outcome(result: PairResult) -> RowOutcome:
    """Return what became of a comparison over its orders."""
    outcomes = set(result.outcomes)
    if not outcomes or outcomes & _UNREAD:
        return "unread"
    if "tie" in outcomes:
        return "tie"
    if len(outcomes) > 1:
        return "inconsistent"
    return "right" if outcomes == {"correct"} else "wrong"


def shorten(text: str, longest: int = LONGEST) -> str:
    """Return a text; of one that is too long its beginning, and its length."""
    if len(text) <= longest:
        return text
    return f"{text[:longest]}\n… [shortened: the first {longest:,} of {len(text):,} characters]"


def printable(text: str) -> str:
    """Return text with every half of a surrogate pair, which JSON can hold and UTF-8 cannot, as a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")


def embedded_json(value: Any) -> str:
    """Return JSON that can stand inside a `<script>`: no text in it can end the element or begin a comment."""
    import msgspec

    try:
        text = msgspec.json.encode(value).decode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair, which UTF-8 cannot hold
        text = json.dumps(value, ensure_ascii=True, allow_nan=False)
    for character, escape in _ESCAPES.items():
        text = text.replace(character, escape)
    return text


def payload(benchmark: BenchmarkRun) -> dict[str, Any]:
    """Return the benchmark's rows and comparisons as plain values.

    A comparison points at its row and at two of the row's answers, and has one result per model. What a model said
    of each answer alone stands with the row, by model: None where it compares.
    """
    rows, pairs = [], []
    for at, row in enumerate(benchmark.rows):
        rows.append(
            {
                "id": row.id,
                "subset": row.subset,
                "turns": [[turn["role"], shorten(turn["content"])] for turn in row.history],
                "answers": [shorten(answer) for answer in row.answers],
                "lengths": [len(answer) for answer in row.answers],
                "length": sum(len(turn["content"]) for turn in row.history),
                "rated": [_rated(model, row.id) for model in benchmark.models],
            }
        )
        for pair, (right, wrong) in zip(row.pairs, row.places, strict=True):
            results = [_result(model, pair.id) for model in benchmark.models]
            pairs.append({"id": pair.id, "row": at, "right": right, "wrong": wrong, "results": results})
    return {"models": [model.name for model in benchmark.models], "rows": rows, "pairs": pairs}


def _rated(model: ModelRun, row: str) -> list[dict[str, Any]] | None:
    if not model.ratings:
        return None
    return [
        {
            "rating": rated.rating,
            "outcome": rated.outcome,
            "reason": shorten(rated.reason),
            "rescued": rated.rescued,
            "tokens": rated.tokens,
        }
        for rated in model.ratings[row]
    ]


def _result(model: ModelRun, pair_id: str) -> dict[str, Any]:
    result = model.results[pair_id]
    verdicts = [
        {
            "order": verdict.order,
            "winner": verdict.winner,
            "a": _rounded(verdict.prob_a),
            "outcome": outcome,
            "reason": shorten(verdict.reason),
            "rescued": verdict.rescued,
            "tokens": verdict.tokens,
        }
        for verdict, outcome in zip(result.verdicts, result.outcomes, strict=False)
    ]
    return {
        "outcome": row_outcome(result),
        # The difference of two ratings is no log-odds, as a scalar head's is.
        "p": None if model.ratings else _rounded(probability_right(result)),
        "scores": result.scores,
        "verdicts": verdicts,
    }


def _rounded(probability: float | None) -> float | None:
    return None if probability is None else round(probability, 4)


def render(template: str, *, room: str = "report", **values: Any) -> str:
    """Return one HTML document, ending in a newline.

    Args:
        template: the name of a template; here, beside this module, they extend `page.html.jinja`.
        room: the folder of the package that holds the template.
        values: what it shows; markup in them is shown as text.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("reasongenrm", room), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["csp_hash"] = csp_hash
    return printable(environment.get_template(template).render(**values)) + "\n"


def csp_hash(text: str) -> str:
    """Return the source expression by which a policy allows this inline script or style and no other."""
    digest = hashlib.sha256(str(text).encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
