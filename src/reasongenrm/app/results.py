"""Results of a judge as HTML for the tab Try: verdicts, rankings and ratings; every text is escaped."""

from __future__ import annotations

from collections.abc import Sequence

from reasongenrm.app.history import letter
from reasongenrm.app.notices import table_html, text_html
from reasongenrm.config.rubric import Rubric
from reasongenrm.judge.criteria import RubricComparison, RubricRating, rating_score
from reasongenrm.judge.stream import StreamedTexts
from reasongenrm.judge.tournament import Ranking
from reasongenrm.records import Comparison, Order, Rating, Verdict

_WINNERS = {"A": "A is better", "B": "B is better", "tie": "a tie"}
_PROBLEMS = {
    "unparsed": "no verdict: the judge's text has none",
    "truncated": "no verdict: the judge ran out of tokens",
    "error": "no verdict: the judge failed",
}
_OTHER = {"A": "B", "B": "A"}


def order_text(texts: StreamedTexts, order: Order) -> str:
    """Return the texts of one order for a text box: each under its criterion and vote where there are several."""
    shown = [text for text in texts if text.order == order]
    votes = max((text.vote for text in shown), default=1)
    parts = []
    for text in shown:
        names = ([text.criterion] if text.criterion else []) + [f"vote {text.vote}"] * (votes > 1)
        head = f"[{', '.join(names)}]\n" if names else ""
        end = f"\n→ {_verdict_words(text.verdict)}" if text.verdict else ""
        parts.append(f"{head}{text.text}{end}")
    return "\n\n".join(parts)


def own_letter(verdict: Verdict) -> str | None:
    """Return a verdict with the letters of the page: in the order BA the judge calls the page's first answer B."""
    winner = verdict.winner
    return _OTHER.get(str(winner), winner) if verdict.order == "BA" else winner


def _verdict_words(verdict: Verdict) -> str:
    winner = own_letter(verdict)
    return _WINNERS[winner] if winner else _PROBLEMS.get(verdict.outcome, verdict.outcome)


def agreement(verdicts: Sequence[Verdict]) -> str:
    """Return in words whether both orders name the same answer; empty for less than two orders."""
    if len(verdicts) < 2:
        return ""
    winners = {verdict.order: own_letter(verdict) or "no verdict" for verdict in verdicts}
    if len(set(winners.values())) == 1:
        return f"both orders: {winners['AB']}"
    return f"the orders disagree: {winners['AB']} where A comes first, {winners['BA']} where B does"


def comparison_html(comparison: Comparison, rubric: Rubric | None, seconds: float) -> str:
    """Return the verdict, P(A), the agreement of the orders, votes and criteria of a comparison.

    Args:
        comparison: the result.
        rubric: its criteria, for their weights.
        seconds: time that it took.
    """
    winner = comparison.winner
    words = _WINNERS[winner] if winner else _PROBLEMS.get(comparison.outcome, comparison.outcome)
    parts = [f'<p class="winner">{words}</p>', _bar(comparison.prob_a)]
    facts = [agreement(comparison.verdicts), *_votes(comparison.verdicts)]
    facts.append(f"{comparison.prompt_tokens} tokens read, {comparison.tokens} written, {seconds:.1f} s")
    if comparison.error:
        facts.insert(0, comparison.error)
    if any(verdict.rescued for verdict in comparison.verdicts):
        facts.append("a text that could not be read was followed by a request for the verdict alone")
    parts += [f"<p>{text_html(fact)}</p>" for fact in facts if fact]
    if isinstance(comparison, RubricComparison):
        parts.append(_criteria_table(comparison, rubric))
    return f'<div class="result">{"".join(parts)}</div>'


def _bar(prob_a: float | None) -> str:
    if prob_a is None:
        return "<p>P(A is better): not known (this judge gives no log-probabilities)</p>"
    share = f"{100 * prob_a:.1f}%"
    return (
        f'<p>P(A is better) = {prob_a:.3f}</p><div class="bar" role="img" aria-label="P(A is better) is {share}">'
        f'<span style="width:{share}"></span></div>'
    )


def _votes(verdicts: Sequence[Verdict]) -> list[str]:
    lines = []
    for verdict in verdicts:
        if verdict.votes:
            votes = [_OTHER.get(str(v), v) if verdict.order == "BA" else v for v in verdict.votes]
            first = "A" if verdict.order == "AB" else "B"
            lines.append(f"votes where {first} comes first: {' '.join(vote or '–' for vote in votes)}")
    return lines


def _criteria_table(comparison: RubricComparison, rubric: Rubric | None) -> str:
    weights = {c.name: c.weight for c in rubric.criteria} if rubric else {}
    rows = [
        [
            name,
            f"{weights.get(name, 1.0):g}",
            part.winner or part.outcome,
            _number(part.prob_a, 3),
            agreement(part.verdicts),
        ]
        for name, part in comparison.criteria.items()
    ]
    return table_html(["criterion", "weight", "better", "P(A)", "orders"], rows)


def ranking_html(ranking: Ranking, seconds: float) -> str:
    """Return the order of the answers, the best first, and the games behind it with their reasons."""
    rows = [
        [str(place), letter(index), f"{ranking.ratings[index]:+.2f}"]
        for place, index in enumerate(ranking.order, 1)
    ]
    unread = f"; {ranking.unread} could not be read" if ranking.unread else ""
    facts = f"{len(ranking.games)} comparisons{unread}, {seconds:.1f} s"
    games = "".join(
        f"<details><summary>{letter(game.first)} and {letter(game.second)}: "
        f"{letter(game.winner) if game.winner is not None else 'no winner'}</summary>"
        f'<p class="text">{text_html(_reasons(game.comparison))}</p></details>'
        for game in ranking.games
    )
    best = f'<p class="winner">{letter(ranking.order[0])} is best</p>'
    head = ["place", "answer", "strength (Bradley–Terry, nats)"]
    return f'<div class="result">{best}{table_html(head, rows)}<p>{facts}</p>{games}</div>'


def _reasons(comparison: Comparison) -> str:
    if comparison.error:
        return comparison.error
    return "\n\n".join(reason for reason in comparison.reasons.values() if reason) or "no reason"


def ratings_html(ratings: Sequence[Rating], seconds: float) -> str:
    """Return the rating of each answer, with its score in [0, 1], its criteria and its reason."""
    rows = [
        [letter(index), _number(rating.rating, 1), _number(rating_score(rating), 3), rating.outcome]
        for index, rating in enumerate(ratings)
    ]
    details = "".join(_rating_details(letter(index), rating) for index, rating in enumerate(ratings))
    head = ["answer", "rating (1 to 10)", "score (0 to 1)", "outcome"]
    return f'<div class="result">{table_html(head, rows)}<p>{seconds:.1f} s</p>{details}</div>'


def _rating_details(name: str, rating: Rating) -> str:
    text = rating.error or rating.reason
    criteria = ""
    if isinstance(rating, RubricRating):
        rows = [
            [criterion, _number(part.rating, 1), _number(rating.scores.get(criterion), 2), part.reason]
            for criterion, part in rating.criteria.items()
        ]
        criteria = table_html(["criterion", "rating (1 to 10)", "on its scale", "reason"], rows)
    if not (text or criteria):
        return ""
    body = f'<p class="text">{text_html(text)}</p>' if text else ""
    return f"<details open><summary>reason for {name}</summary>{body}{criteria}</details>"


def scores_html(scores: Sequence[float], head: str) -> str:
    """Return the scores of a trained head, one per answer, and the order that they give."""
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    place = {index: str(number) for number, index in enumerate(order, 1)}
    rows = [[letter(index), f"{score:+.3f}", place[index]] for index, score in enumerate(scores)]
    title = f"<p>scores of the head {text_html(head)}</p>"
    return f'<div class="result">{title}{table_html(["answer", "score", "place"], rows)}</div>'


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
