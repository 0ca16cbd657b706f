"""The Bradley-Terry loss, the input sequence and a simulation, as numbers and Markdown tables for the notebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reasongenrm.errors import EngineError
from reasongenrm.records import Message
from reasongenrm.report.tables import grid
from reasongenrm.scalar.model import MAX_LENGTH, encode

DELTAS = (0.0, 1.0, 2.0, 5.0)
"""The differences of the table, in nats."""


class LossRow(NamedTuple):
    """One line of the loss table.

    Attributes:
        delta: Z_a - Z_b, in nats.
        probability: sigma(delta - margin), in (0, 1).
        loss: in nats.
        gradient: d loss / d delta, in (-1, 0).
    """

    delta: float
    probability: float
    loss: float
    gradient: float


class Comparison(NamedTuple):
    """Two scored answers.

    Attributes:
        first, second: their names.
        delta: score of the first less that of the second, in nats.
        probability: that the first is better, sigma(delta).
    """

    first: str
    second: str
    delta: float
    probability: float


def probability(delta: ArrayLike) -> NDArray[np.float64]:
    """Return sigma(delta) = 1 / (1 + exp(-delta)), the probability that the first answer is better.

    Source: Bradley & Terry 1952; with strengths exp(Z) it is exp(Z_a) / (exp(Z_a) + exp(Z_b)).

    Args:
        delta: Z_a - Z_b in nats, of any shape and size.

    Returns:
        The same shape, in [0, 1].
    """
    return np.exp(-loss(delta))


def loss(delta: ArrayLike, margin: ArrayLike = 0.0) -> NDArray[np.float64]:
    """Return -log sigma(delta - margin), the loss of one preference, in nats.

    Sources: Ouyang et al. 2022, equation 1, for one pair; the margin is that of Llama 2 (Touvron et al. 2023,
    arXiv 2307.09288, section 3.2.2) and of the column `margin` of TRL's RewardTrainer.

    Args:
        delta: Z_a - Z_b in nats, of any shape and size.
        margin: by how much the preferred answer is to lead, in nats; broadcast against delta.

    Returns:
        The shape both have in common; at least 0.
    """
    # log(exp(0) + exp(-x)): neither overflows at x = -1e4 nor loses the small loss at x = 50.
    return np.logaddexp(0.0, -_less(delta, margin))


def gradient(delta: ArrayLike, margin: ArrayLike = 0.0) -> NDArray[np.float64]:
    """Return d loss / d delta = -(1 - sigma(delta - margin)): how hard a pair pulls its two scores apart.

    It is d loss / d Z_a, and -d loss / d Z_b. Source: the derivative of `loss`.

    Args:
        delta: Z_a - Z_b in nats, of any shape and size.
        margin: as in `loss`.

    Returns:
        The shape both have in common, in [-1, 0].
    """
    return -probability(-_less(delta, margin))  # 1 - sigma(x) is sigma(-x), without the cancellation


def centering(chosen: ArrayLike, rejected: ArrayLike, coefficient: float) -> float:
    """Return coefficient * mean((Z_a + Z_b)^2), which is added to a batch's loss to keep scores around 0.

    Source: Eisenstein et al. 2023, arXiv 2312.09244; TRL's `center_rewards_coefficient`.

    Args:
        chosen, rejected: scores of the preferred answers and of the others, of one shape.
        coefficient: its weight.
    """
    total = np.asarray(chosen, dtype=np.float64) + np.asarray(rejected, dtype=np.float64)
    return coefficient * float(np.mean(total**2))


def loss_table(deltas: Sequence[float] = DELTAS, margin: float = 0.0) -> list[LossRow]:
    """Return one row per difference: the probability, the loss and its gradient there."""
    return [
        LossRow(
            float(delta),
            float(probability(delta - margin)),
            float(loss(delta, margin)),
            float(gradient(delta, margin)),
        )
        for delta in deltas
    ]


def compare_scores(scores: Mapping[str, float]) -> list[Comparison]:
    """Return every pair of scored answers once, the one that is named earlier first.

    Args:
        scores: name of an answer -> its score; answers to one prompt.
    """
    return [
        Comparison(
            first, second, scores[first] - scores[second], float(probability(scores[first] - scores[second]))
        )
        for first, second in combinations(scores, 2)
    ]


def _less(delta: ArrayLike, margin: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(delta, dtype=np.float64) - np.asarray(margin, dtype=np.float64)


Part = Literal["query", "response", "special"]
"""Where a token comes from: prompt (omega), response (omega-hat), or the tokenizer's pair template."""


_PARTS: dict[int | None, Part] = {0: "query", 1: "response", None: "special"}
"""What `BatchEncoding.sequence_ids` says -> the part."""


@dataclass(frozen=True)
class Token:
    """One token of the appended sequence.

    Attributes:
        position: in the sequence, from 0.
        text: as the vocabulary spells it.
        id: in the vocabulary.
        part: what it belongs to.
    """

    position: int
    text: str
    id: int
    part: Part


class Run(NamedTuple):
    """Neighbouring tokens of one part.

    Attributes:
        part: what they belong to.
        first, last: their positions, both included.
        text: the tokens, a space between them.
    """

    part: Part
    first: int
    last: int
    text: str


@dataclass(frozen=True)
class ShownSequence:
    """The sequence [omega; omega-hat] of one pair.

    Attributes:
        tokens: all of them, in the order in which the model reads them.
        cut: tokens of prompt and response that were too many, and are not among them.
    """

    tokens: tuple[Token, ...]
    cut: int

    @property
    def query(self) -> list[str]:
        """The prompt's tokens, omega."""
        return [token.text for token in self.tokens if token.part == "query"]

    @property
    def response(self) -> list[str]:
        """The response's tokens, omega-hat."""
        return [token.text for token in self.tokens if token.part == "response"]

    @property
    def runs(self) -> list[Run]:
        """The sequence with neighbours of one part put together."""
        runs = []
        for part, group in groupby(self.tokens, key=lambda token: token.part):
            tokens = list(group)
            text = " ".join(token.text for token in tokens)
            runs.append(Run(part, tokens[0].position, tokens[-1].position, text))
        return runs


def show_sequence(
    tokenizer: Any, prompt: str | Sequence[Message], response: str, max_length: int = MAX_LENGTH
) -> ShownSequence:
    """Return the tokens of a prompt and a response exactly as the model is fed them, each with its part.

    Args:
        tokenizer: a trained head's (`ScalarRewardModel.tokenizer`).
        max_length: tokens to keep, special tokens included, as in `scalar.encode`.

    Raises:
        EngineError: a tokenizer in Python, which does not say where its tokens come from.
    """
    if not tokenizer.is_fast:
        raise EngineError("the tokenizer does not tell prompt from response", hint="use a fast tokenizer")
    encoded: Any = encode(tokenizer, prompt, response, max_length)
    whole = encode(tokenizer, prompt, response, None)
    ids = encoded["input_ids"]
    texts = tokenizer.convert_ids_to_tokens(ids)
    parts = [_PARTS[number] for number in encoded.sequence_ids()]
    rows = enumerate(zip(texts, ids, parts, strict=True))
    tokens = tuple(Token(position, text, number, part) for position, (text, number, part) in rows)
    return ShownSequence(tokens, len(whole["input_ids"]) - len(ids))


PAIRS = (500, 1000, 2000, 4000, 8000, 16000)
"""Numbers of preferences of the error curve."""


def recover_reward(n_pairs: int, dim: int = 8, seed: int | Sequence[int] = 0, length: float = 1.0) -> float:
    """Draw a reward and preferences by it, fit the reward to them, and return the error of the fit.

    The true reward is r(x) = w* x, with w* of a random direction. Both answers' features are standard normal,
    and the first is preferred with P = sigma(w* (x_a - x_b)). The fit is the maximum of the Bradley-Terry
    likelihood (Bradley & Terry 1952), which here is logistic regression on x_a - x_b without intercept or
    penalty; its error falls as 1 / sqrt(n_pairs), as that of every regular maximum-likelihood estimate does.

    Args:
        n_pairs: preferences to learn from; at least 20 per feature, since with few of them some direction may
            separate all preferences, and the likelihood then has no maximum.
        dim: features of an answer.
        seed: of the reward, the features and the preferences.
        length: ||w*||, in nats per unit of feature.

    Returns:
        ||w_hat - w*||, in the unit of `length`.

    Raises:
        ValueError: too few preferences.
    """
    from sklearn.linear_model import LogisticRegression

    if n_pairs < 20 * dim:
        raise ValueError(f"{n_pairs} pairs are too few for {dim} features: give {20 * dim} or more")
    source = np.random.default_rng(seed)
    true = source.standard_normal(dim)
    true *= length / np.linalg.norm(true)
    first, second = source.standard_normal((2, n_pairs, dim))
    differences = first - second
    preferred = source.random(n_pairs) < probability(differences @ true)
    model = LogisticRegression(fit_intercept=False, C=np.inf, tol=1e-8, max_iter=1000)
    fitted = model.fit(differences, preferred).coef_[0]
    return float(np.linalg.norm(fitted - true))


def error_curve(ns: Sequence[int] = PAIRS, repeats: int = 20, seed: int = 0, dim: int = 8) -> list[float]:
    """Return the mean error of `recover_reward` for each number of preferences.

    Args:
        ns: numbers of preferences.
        repeats: rewards drawn for each of them.
        seed: the same seed gives the same curve.
        dim: features of an answer.
    """
    return [
        float(np.mean([recover_reward(n, dim, (seed, n, repeat)) for repeat in range(repeats)])) for n in ns
    ]


def slope(ns: Sequence[int], errors: Sequence[float]) -> float:
    """Return the slope of log error over log n, by least squares; -0.5 where errors fall as 1 / sqrt(n)."""
    return float(np.polyfit(np.log(ns), np.log(errors), 1)[0])


def loss_markdown(rows: Sequence[LossRow]) -> str:
    """Return the loss table; three decimals, the differences as they are."""
    cells = [[f"{row.delta:g}", *(f"{value:.3f}" for value in row[1:])] for row in rows]
    return grid(["Δ", "σ(Δ)", "loss", "gradient"], cells, text_columns=0)


def sequence_markdown(shown: ShownSequence) -> str:
    """Return one row per run of tokens of one part."""
    places = [f"{run.first}" if run.first == run.last else f"{run.first}–{run.last}" for run in shown.runs]
    rows = [(run.part, place, run.text) for run, place in zip(shown.runs, places, strict=True)]
    return grid(["part", "positions", "tokens"], rows, text_columns=3)


def simulation_markdown(ns: Sequence[int], errors: Sequence[float]) -> str:
    """Return one row per number of preferences; error × √n stays the same where the law holds."""
    rows = [(f"{n:,}", f"{error:.4f}", f"{error * n**0.5:.2f}") for n, error in zip(ns, errors, strict=True)]
    return grid(["preferences n", "error", "error × √n"], rows, text_columns=0)


def scores_markdown(answers: Mapping[str, str], scores: Mapping[str, float]) -> str:
    """Return one row per answer, with its text and its score.

    Args:
        answers: name -> text.
        scores: name -> score.
    """
    rows = [(name, text, f"{scores[name]:+.3f}") for name, text in answers.items()]
    return grid(["answer", "text", "score Z"], rows, text_columns=2)


def comparisons_markdown(comparisons: Sequence[Comparison]) -> str:
    """Return one row per pair of answers."""
    rows = [(one.first, one.second, f"{one.delta:+.3f}", f"{one.probability:.3f}") for one in comparisons]
    return grid(["a", "b", "Δ = Z_a - Z_b", "σ(Δ)"], rows, text_columns=2)
