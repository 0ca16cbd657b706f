"""Results as HTML: the letters are those of the page in both orders, and no text becomes markup."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest

from reasongenrm.app.notices import error_notice, notice
from reasongenrm.app.results import (
    agreement,
    comparison_html,
    order_text,
    ranking_html,
    ratings_html,
    scores_html,
)
from reasongenrm.config.rubric import Rubric
from reasongenrm.errors import DataError
from reasongenrm.judge.criteria import combine_comparisons, combine_ratings
from reasongenrm.judge.stream import StreamedText
from reasongenrm.judge.tournament import Game, Ranking, rank
from reasongenrm.records import Comparison, Order, Rating, Verdict, Winner

pytestmark = pytest.mark.unit

EVIL = "<img src=x onerror=alert(1)><script>alert(2)</script>\"'&\u202e\x1b]8;;x"
ALLOWED = {"div", "p", "span", "table", "thead", "tbody", "tr", "th", "td", "details", "summary"}


class Tags(HTMLParser):
    """Collects elements, their attributes, and the text between them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.words: list[str] = []
        self.feed(html)
        self.text = " ".join(self.words)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def verdict(order: Order, winner: Winner | None, **options: Any) -> Verdict:
    outcome = options.pop("outcome", "ok" if winner else "unparsed")
    return Verdict(order, "pair", order, winner, None, outcome, EVIL, **options)


def comparison(
    *verdicts: Verdict, winner: Winner | None = "A", prob_a: float | None = 0.75, **o: Any
) -> Comparison:
    fields: dict[str, Any] = {"reasons": {"AB": EVIL, "BA": EVIL}, "outcome": "ok"} | o
    return Comparison("id", winner, prob_a, EVIL, verdicts=verdicts, prompt_tokens=9, tokens=4, **fields)


@pytest.mark.parametrize(
    ("ab", "ba", "words"),
    [
        ("A", "B", "both orders: A"),
        ("B", "A", "both orders: B"),
        ("tie", "tie", "both orders: tie"),
        ("A", "A", "the orders disagree: A where A comes first, B where B does"),
        (None, "A", "the orders disagree: no verdict where A comes first, B where B does"),
    ],
)
def test_agreement_is_told_with_the_letters_of_the_page(
    ab: Winner | None, ba: Winner | None, words: str
) -> None:
    assert agreement([verdict("AB", ab), verdict("BA", ba)]) == words
    assert agreement([verdict("AB", ab)]) == ""


def test_a_comparison_shows_verdict_probability_votes_and_costs() -> None:
    shown = Tags(
        comparison_html(
            comparison(verdict("AB", "A", votes=("A", None)), verdict("BA", "A", votes=("A", "B"))), None, 2.5
        )
    ).text
    for words in (
        "A is better",
        "P(A is better) = 0.750",
        "the orders disagree",
        "9 tokens read, 4 written, 2.5 s",
    ):
        assert words in shown
    assert "votes where A comes first: A –" in shown and "votes where B comes first: B A" in shown
    failed = comparison(winner=None, prob_a=None, outcome="error", error="HTTP 500: down")
    shown = Tags(comparison_html(failed, None, 1)).text
    assert "no verdict: the judge failed" in shown and "HTTP 500: down" in shown and "not known" in shown


def test_no_text_becomes_markup() -> None:
    rubric = Rubric.model_validate([EVIL, "brief"])
    by_name = {
        name: comparison(verdict("AB", "A"), verdict("BA", "A"), error=EVIL) for name in (EVIL, "brief")
    }
    together = combine_comparisons(rubric, by_name, comparison_id="x", margin=0.0)
    ranking = rank(3, lambda games: [comparison(error=EVIL) for _ in games])
    rating = Rating("r", 7.0, "ok", EVIL)
    failed = Rating("r", None, "error", "", error=EVIL)
    rated = combine_ratings(rubric, {EVIL: rating, "brief": rating}, rating_id="x")
    for html in (
        comparison_html(comparison(verdict("AB", "A"), outcome="error", error=EVIL), None, 1.0),
        comparison_html(together, rubric, 1.0),
        ranking_html(ranking, 1.0),
        ratings_html([rating, failed, rated], 1.0),
        scores_html([0.5, -2.0], EVIL),
        notice(EVIL, "error"),
        error_notice(DataError(EVIL, location=EVIL, hint=EVIL)),
    ):
        tags = Tags(html)
        assert tags.tags <= ALLOWED and tags.attributes <= {
            "class",
            "style",
            "role",
            "aria-label",
            "scope",
            "open",
        }
        assert "\u202e" not in html and "\x1b" not in html
    assert "criterion" in comparison_html(together, rubric, 1.0)


def test_a_ranking_names_the_best_and_every_game() -> None:
    games = [
        Game(0, 1, comparison(winner="B")),
        Game(1, 0, comparison(winner=None, prob_a=None, outcome="unparsed")),
    ]
    shown = Tags(ranking_html(Ranking([1, 0], [-0.4, 0.4], games, 1), 3.0)).text
    assert "B is best" in shown and "A and B: B" in shown and "B and A: no winner" in shown
    assert "2 comparisons; 1 could not be read, 3.0 s" in shown


def test_texts_of_an_order_are_under_their_criterion_and_vote() -> None:
    done = verdict("BA", "A", outcome="ok")
    texts = (
        StreamedText("AB", 1, "", "thinking"),
        StreamedText("BA", 1, "", "so", done),
    )
    assert order_text(texts, "AB") == "thinking" and order_text(texts, "BA") == "so\n→ B is better"
    several = (StreamedText("AB", 1, "brief", "x"), StreamedText("AB", 2, "brief", "y"))
    assert order_text(several, "AB") == "[brief, vote 1]\nx\n\n[brief, vote 2]\ny"
    assert order_text(several, "BA") == ""


def test_an_error_that_is_not_the_users_tells_nothing_of_its_insides() -> None:
    html = error_notice(RuntimeError("/home/me/secret.py line 3"))
    assert "secret" not in html and "see the log" in html
