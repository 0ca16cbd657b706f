"""The Bradley-Terry loss, the input sequence and a simulation, as numbers, tables and PNG figures for the notebook.

`python -m reasongenrm.scalar.explain docs/images` draws the figures of docs/reward-modeling.md.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import combinations, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, log_expit

from reasongenrm.errors import EngineError
from reasongenrm.records import Message
from reasongenrm.report.charts import encode_png, figure
from reasongenrm.report.tables import grid
from reasongenrm.scalar.model import encode
from reasongenrm.store import atomic_writer

DELTAS = (0.0, 1.0, 2.0, 5.0)
"""The differences of the loss table, in nats."""

PAIR_COUNTS = (500, 1000, 2000, 4000, 8000, 16000)
"""Numbers of preferences of the error curve."""

_POINTS = ((1.5, -1.0), (-0.5, -2.0), (1.25, 0.75), (-1.0, 1.0))
"""(Z_a, Z_b) of the pairs in the margin figure: two lead by enough, one by too little, one is in the wrong order."""


def probability(delta: ArrayLike) -> NDArray[np.float64]:
    """Return sigma(delta) = 1 / (1 + exp(-delta)), the probability that the first answer is better.

    Source: Bradley & Terry 1952; with strengths exp(Z) it is exp(Z_a) / (exp(Z_a) + exp(Z_b)).

    Args:
        delta: Z_a - Z_b in nats, of any shape.

    Returns:
        The same shape, in [0, 1].
    """
    return expit(np.asarray(delta, dtype=np.float64))


def loss(delta: ArrayLike, margin: ArrayLike = 0.0) -> NDArray[np.float64]:
    """Return -log sigma(delta - margin), the loss of one preference, in nats.

    Sources: Ouyang et al. 2022, equation 1, for one pair; the margin is that of Llama 2 (Touvron et al. 2023,
    arXiv 2307.09288, section 3.2.2) and of the column `margin` of TRL's RewardTrainer.

    Args:
        delta: Z_a - Z_b in nats, of any shape.
        margin: the required lead of the preferred answer, in nats; broadcast against delta.

    Returns:
        The common shape; at least 0.
    """
    return -log_expit(np.subtract(delta, margin, dtype=np.float64))


def gradient(delta: ArrayLike, margin: ArrayLike = 0.0) -> NDArray[np.float64]:
    """Return d loss / d delta = -(1 - sigma(delta - margin)): how strongly a pair pulls its two scores apart.

    It is d loss / d Z_a, and -d loss / d Z_b. Source: the derivative of `loss`, whose arguments it has.

    Returns:
        The common shape, in [-1, 0].
    """
    return -probability(np.subtract(margin, delta))  # 1 - sigma(x) is sigma(-x), without the cancellation


def loss_table(deltas: Sequence[float] = DELTAS) -> str:
    """Return a Markdown table of the probability, the loss and its gradient at each difference, to three decimals."""
    rows = [[f"{d:g}", *(f"{float(f(d)):.3f}" for f in (probability, loss, gradient))] for d in deltas]
    return grid(["Δ", "σ(Δ)", "loss", "gradient"], rows, text_columns=0)


def token_runs(tokenizer: Any, prompt: str | Sequence[Message], response: str) -> list[tuple[str, list[str]]]:
    """Return the input sequence [omega; omega-hat] exactly as the model reads it: the name and the tokens of each part.

    The parts are `query` (the prompt, omega), `response` (omega-hat) and `special` (from the tokenizer's pair template).

    Args:
        tokenizer: a trained head's (`ScalarRewardModel.tokenizer`).

    Raises:
        EngineError: a slow tokenizer, which does not report where its tokens come from.
    """
    if not tokenizer.is_fast:
        problem = "the tokenizer does not tell prompt from response"
        raise EngineError(problem, location=tokenizer.name_or_path, hint="use a fast tokenizer")
    encoded: Any = encode(tokenizer, prompt, response, tokenizer.model_max_length)
    texts = tokenizer.convert_ids_to_tokens(encoded["input_ids"])
    names = {0: "query", 1: "response", None: "special"}
    tokens = zip([names[number] for number in encoded.sequence_ids()], texts, strict=True)
    return [(part, [text for _, text in group]) for part, group in groupby(tokens, key=itemgetter(0))]


def sequence_table(tokenizer: Any, prompt: str | Sequence[Message], response: str) -> str:
    """Return the parts of `token_runs` with their positions, from 0, as a Markdown table."""
    rows, first = [], 0
    for part, tokens in token_runs(tokenizer, prompt, response):
        last = first + len(tokens) - 1
        rows.append((part, f"{first}–{last}" if last > first else f"{first}", " ".join(tokens)))
        first = last + 1
    return grid(["part", "positions", "tokens"], rows, text_columns=3)


def score_table(answers: Mapping[str, str], scores: Mapping[str, float]) -> str:
    """Return a Markdown table with the text and the score of each answer, both by the answer's name."""
    rows = [(name, text, f"{scores[name]:+.3f}") for name, text in answers.items()]
    return grid(["answer", "text", "score Z"], rows, text_columns=2)


def difference_table(scores: Mapping[str, float]) -> str:
    """Return a Markdown table with the difference and the probability of each pair of answers to one prompt, by name."""
    deltas = {(a, b): scores[a] - scores[b] for a, b in combinations(scores, 2)}
    rows = [(a, b, f"{delta:+.3f}", f"{float(probability(delta)):.3f}") for (a, b), delta in deltas.items()]
    return grid(["a", "b", "Δ = Z_a - Z_b", "σ(Δ)"], rows, text_columns=2)


def reward_error(n_pairs: int, seed: int | Sequence[int]) -> float:
    """Draw a reward and preferences that follow it, fit a reward to the preferences, and return the error of the fit.

    The true reward is r(x) = w* x, with w* of length 1 (nats per unit of feature) in a random direction. Both answers' eight
    features are standard normal, and the first is preferred with P = sigma(w* (x_a - x_b)). The fit is the maximum of
    the Bradley-Terry likelihood (Bradley & Terry 1952), which here is logistic regression on x_a - x_b without
    intercept or penalty; its error falls as 1 / sqrt(n_pairs), like that of every regular maximum-likelihood estimate.

    Args:
        n_pairs: preferences to learn from; with fewer than 160, some direction may separate all of them, and the likelihood
            then has no maximum.
        seed: of the reward, the features and the preferences.

    Returns:
        ||w_hat - w*||.
    """
    from sklearn.linear_model import LogisticRegression

    source = np.random.default_rng(seed)
    true = source.standard_normal(8)
    true *= 1.0 / np.linalg.norm(true)
    first, second = source.standard_normal((2, n_pairs, 8))
    differences = first - second
    preferred = source.random(n_pairs) < probability(differences @ true)
    model = LogisticRegression(fit_intercept=False, C=np.inf, tol=1e-8, max_iter=1000)
    return float(np.linalg.norm(model.fit(differences, preferred).coef_[0] - true))


def error_curve(counts: Sequence[int] = PAIR_COUNTS, repeats: int = 20, seed: int = 0) -> list[float]:
    """Return the mean `reward_error` for each number of preferences.

    Args:
        counts: numbers of preferences.
        repeats: rewards drawn for each of them.
        seed: the same seed gives the same curve.
    """
    return [float(np.mean([reward_error(n, seed=(seed, n, at)) for at in range(repeats)])) for n in counts]


def log_slope(counts: Sequence[int], errors: Sequence[float]) -> float:
    """Return the slope of log error over log n, by least squares; -0.5 where errors fall as 1 / sqrt(n)."""
    return float(np.polyfit(np.log(counts), np.log(errors), 1)[0])


def error_table(counts: Sequence[int], errors: Sequence[float]) -> str:
    """Return a Markdown table of the error curve; error × √n is constant where the law holds."""
    rows = [
        (f"{n:,}", f"{error:.4f}", f"{error * n**0.5:.2f}") for n, error in zip(counts, errors, strict=True)
    ]
    return grid(["preferences n", "error", "error × √n"], rows, text_columns=0)


def loss_figure() -> bytes:
    """Draw the loss and its gradient over delta, with dots at the rows of the loss table, and return a PNG."""
    drawing, [panels] = figure(3.4, columns=2)
    deltas = np.linspace(-6, 6, 241)
    titles = (r"loss $-\log\,\sigma(\Delta)$", r"its gradient $-(1-\sigma(\Delta))$")
    for axes, function, title, color in zip(panels, (loss, gradient), titles, ("C0", "C1"), strict=True):
        axes.plot(deltas, function(deltas), color=color, label="no margin")
        axes.plot(deltas, function(deltas, 1), color=color, linestyle="--", linewidth=1, label="margin 1")
        axes.plot(DELTAS, function(DELTAS), "o", color=color, markersize=4)
        axes.set(title=title, xlabel=r"$\Delta = Z_a - Z_b$ (nats)")
        axes.axvline(0, color="#999", linewidth=0.8)
        axes.grid(alpha=0.3)
        axes.legend()
    panels[0].set_ylabel("nats")
    return encode_png(drawing)


def margin_figure(margin: float = 1.0) -> bytes:
    """Draw pairs in the plane of their scores, with their distances to the line of equal scores, as a PNG.

    The distance of (Z_a, Z_b) to the line Z_a = Z_b is delta / sqrt(2), and to the line Z_a = Z_b + margin it
    is (delta - margin) / sqrt(2), both negative on the wrong side.

    Args:
        margin: the required lead of the preferred answer, in nats.
    """
    drawing, [[plain, shifted]] = figure(4.0, columns=2)
    _draw_distances(plain, 0.0)
    plain.set_title(r"no margin: $\Delta\,/\,\sqrt{2}$")
    _draw_distances(shifted, margin)
    shifted.set_title(rf"margin {margin:g}: $(\Delta - {margin:g})\,/\,\sqrt{{2}}$")
    return encode_png(drawing)


def _draw_distances(axes: Any, margin: float) -> None:
    """Draw the points and their distances to the line Z_a = Z_b + margin."""
    ends = np.array([-2.5, 2.5])
    axes.fill_between(ends, ends - margin, -2.5, color="C2", alpha=0.12, linewidth=0)
    axes.plot(ends, ends, color="#333", linewidth=1.2, label=r"$Z_a = Z_b$")
    if margin:
        axes.plot(ends, ends - margin, color="#333", linewidth=1.2, linestyle="--", label=r"$Z_a = Z_b + m$")
    for first, second in _POINTS:
        lead = first - second - margin
        color = "C2" if lead > 0 else "C3"
        foot = (first - lead / 2, second + lead / 2)  # of the perpendicular to the line
        axes.plot([first, foot[0]], [second, foot[1]], color=color, linewidth=1)
        axes.plot(first, second, "o", color=color, markersize=5)
        label = f"{lead / 2**0.5:+.2f}".replace("-", "−")
        axes.annotate(label, (first, second), xytext=(4, 5), textcoords="offset points", fontsize=9)
    axes.set(xlim=(-2.5, 2.5), ylim=(-2.5, 2.5), aspect="equal")
    axes.set(xlabel=r"$Z_a$ (nats), the preferred answer", ylabel=r"$Z_b$ (nats)")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", fontsize=9)


def error_figure(counts: Sequence[int], errors: Sequence[float]) -> bytes:
    """Draw an error curve (`error_curve`) on logarithmic axes, with the nearest c / sqrt(n), and return a PNG."""
    drawing, [[axes]] = figure(3.6)
    n = np.asarray(counts, dtype=np.float64)
    scale = np.exp(np.mean(np.log(errors) + 0.5 * np.log(n)))  # the c that is nearest in the logarithm
    axes.plot(n, scale / np.sqrt(n), color="#999", linestyle="--", label=rf"{scale:.1f} / $\sqrt{{n}}$")
    axes.plot(n, errors, "o", label="mean error of the fit")
    axes.set(xscale="log", yscale="log", title="A reward recovered from noisy preferences")
    axes.set(xlabel="preferences n", ylabel=r"$\|\hat{w} - w^*\|$")
    axes.set_xticks(counts, labels=[f"{n:,}" for n in counts])
    axes.minorticks_off()
    low, high = min(errors) / 2, 2 * max(errors)
    ticks = [tick for tick in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if low < tick < high]
    axes.set_yticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    axes.grid(alpha=0.3)
    axes.legend()
    return encode_png(drawing)


def write_figures(folder: Path) -> list[Path]:
    """Write the figures of docs/reward-modeling.md, `reward-*.png`, and return their paths."""
    pictures = {
        "reward-loss.png": loss_figure(),
        "reward-margin.png": margin_figure(),
        "reward-simulation.png": error_figure(PAIR_COUNTS, error_curve()),
    }
    for name, content in pictures.items():
        with atomic_writer(folder / name) as out:
            out.write(content)
    return [folder / name for name in pictures]


if __name__ == "__main__":
    print(*write_figures(Path(sys.argv[1])), sep="\n")
