"""Simulations with a known reward: how well it is recovered from preferences, by a linear model and by two layers.

Answers are vectors of features, and people choose by the Bradley-Terry model; nothing here reads text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from reasongenrm.metrics.intervals import wilson_interval
from reasongenrm.report.charts import encode_png, figure
from reasongenrm.report.tables import grid, with_interval
from reasongenrm.scalar.losses import probability

PAIR_COUNTS = (500, 1000, 2000, 4000, 8000, 16000)
"""Numbers of preferences of the error curve."""

Numbers = NDArray[np.float64]
Reward = Callable[[Numbers], Numbers]
"""From features, shape (answers, features), to one reward per answer."""


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


def interaction_reward(features: Numbers) -> Numbers:
    """Return r*(x) = 2 x_1 x_2 in nats: a feature is good or bad depending on the other one.

    So refusing is right for a harmful request and wrong for a harmless one: no weight of "refuses" alone fits both.
    """
    return 2 * features[:, 0] * features[:, 1]


@dataclass(frozen=True, slots=True)
class NonlinearFit:
    """Rewards learned from preferences by `interaction_reward`.

    Attributes:
        rewards: name -> reward: the true one, and those of the fits.
        parameters: name -> numbers that were fitted.
        correct: name -> held-out pairs in which the preferred answer has the higher reward.
        held_out: number of held-out pairs.
    """

    rewards: dict[str, Reward]
    parameters: dict[str, int]
    correct: dict[str, int]
    held_out: int


def nonlinear_fit(n_pairs: int = 2000, *, hidden: int = 16, steps: int = 200, seed: int = 0) -> NonlinearFit:
    """Fit a linear reward and one of two layers to preferences that follow `interaction_reward`.

    Both answers' two features are standard normal. The linear fit is that of `reward_error`; that of two layers minimises
    the same Bradley-Terry loss over all pairs at once, with Adam.

    Args:
        n_pairs: preferences to learn from; as many more are held out.
        hidden: units of the first layer (tanh).
        steps: of the optimizer.
        seed: of the features, the preferences and the initial weights.
    """
    source = np.random.default_rng(seed)
    first, second = source.standard_normal((2, 2 * n_pairs, 2))
    lead = interaction_reward(first) - interaction_reward(second)
    swapped = source.random(2 * n_pairs) >= probability(lead)
    better = np.where(swapped[:, None], second, first)
    worse = np.where(swapped[:, None], first, second)
    train, held_out = slice(0, n_pairs), slice(n_pairs, None)
    weights = _linear_weights(better[train], worse[train])
    rewards: dict[str, Reward] = {
        "true reward": interaction_reward,
        "linear": lambda features: features @ weights,
        "two layers": _two_layers(better[train], worse[train], hidden, steps, seed),
    }
    leads = {name: reward(better[held_out]) - reward(worse[held_out]) for name, reward in rewards.items()}
    return NonlinearFit(
        rewards,
        {"true reward": 0, "linear": 2, "two layers": 4 * hidden},
        {name: int((values > 0).sum()) for name, values in leads.items()},
        n_pairs,
    )


def _linear_weights(better: Numbers, worse: Numbers) -> Numbers:
    """Return the maximum of the Bradley-Terry likelihood of a linear reward, shape (features,)."""
    from sklearn.linear_model import LogisticRegression

    differences = better - worse
    # Logistic regression needs both labels: every second pair is turned around, which changes no likelihood.
    signs = np.where(np.arange(len(differences)) % 2, -1, 1)
    model = LogisticRegression(fit_intercept=False, C=np.inf, tol=1e-8, max_iter=1000)
    weights: Numbers = model.fit(differences * signs[:, None], signs > 0).coef_[0]
    return weights


def _two_layers(better: Numbers, worse: Numbers, hidden: int, steps: int, seed: int) -> Reward:
    """Return a reward of two layers, with the lowest Bradley-Terry loss that Adam finds."""
    import torch

    with torch.random.fork_rng(devices=[]):  # keeps the caller's random state
        torch.manual_seed(seed)
        model = torch.nn.Sequential(
            torch.nn.Linear(better.shape[1], hidden), torch.nn.Tanh(), torch.nn.Linear(hidden, 1, bias=False)
        )
    chosen, rejected = (torch.tensor(side, dtype=torch.float32) for side in (better, worse))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = -torch.nn.functional.logsigmoid(model(chosen) - model(rejected)).mean()
        loss.backward()
        optimizer.step()

    def reward(features: Numbers) -> Numbers:
        with torch.inference_mode():
            scores: Numbers = model(torch.tensor(features, dtype=torch.float32))[:, 0].double().numpy()
        return scores

    return reward


def nonlinear_table(fit: NonlinearFit) -> str:
    """Return a Markdown table of the held-out accuracies with their 95% Wilson intervals, in percent."""
    rows = [
        (name, fit.parameters[name] or "–", with_interval(n / fit.held_out, wilson_interval(n, fit.held_out)))
        for name, n in fit.correct.items()
    ]
    return grid(["reward", "parameters", "held-out accuracy, %"], rows, text_columns=1)


def nonlinear_figure(fit: NonlinearFit) -> bytes:
    """Draw each reward over the plane of the two features, on one scale, and return a PNG."""
    drawing, [panels] = figure(2.9, columns=len(fit.rewards))
    places = np.linspace(-2.5, 2.5, 101)
    plane = np.stack(np.meshgrid(places, places), axis=-1).reshape(-1, 2)
    for axes, (name, reward) in zip(panels, fit.rewards.items(), strict=True):
        values = reward(plane)
        picture = axes.pcolormesh(
            places, places, (values - values.mean()).reshape(101, 101), cmap="RdBu", vmin=-6, vmax=6
        )
        axes.set(title=f"{name}: {fit.correct[name] / fit.held_out:.0%}", xlabel="$x_1$", aspect="equal")
    panels[0].set_ylabel("$x_2$")
    drawing.colorbar(picture, ax=panels.tolist(), label="reward (nats)", shrink=0.8)
    return encode_png(drawing)


@dataclass(frozen=True, slots=True)
class LearnedOrder:
    """A reward learned from ranks, and from permuted ranks.

    Attributes:
        accuracy: of the fit on held-out pairs, in [0, 1].
        null: the same after the ranks of every training prompt were permuted, one value per permutation.
        pairs: number of held-out pairs.
    """

    accuracy: float
    null: tuple[float, ...]
    pairs: int


def learned_order(
    prompts: int = 60, held_out: int = 20, *, answers: int = 4, permutations: int = 200, seed: int = 0
) -> LearnedOrder:
    """Rank simulated answers by a noisy linear reward, learn it from some prompts, and order the answers to others.

    An answer has 16 features. People rank by r(x) plus Gumbel noise, so that of two answers the better comes first with
    P = sigma(difference) (Yellott 1977, Journal of Mathematical Psychology 15:109-144).

    Args:
        prompts, held_out: numbers of prompts to learn from and to test on.
        answers: ranked answers per prompt.
        permutations: fits with permuted ranks, the control.
        seed: of the reward, the features, the noise and the permutations.
    """
    source = np.random.default_rng(seed)
    true = source.standard_normal(16)
    true *= 2 / np.linalg.norm(true)
    features = source.standard_normal((prompts + held_out, answers, 16))
    noisy = features @ true + source.gumbel(size=features.shape[:2])
    ordered = np.take_along_axis(features, np.argsort(-noisy, axis=1)[..., None], axis=1)  # the best first

    def accuracy(train: Numbers) -> float:
        weights = _linear_weights(*_better_and_worse(train))
        better, worse = _better_and_worse(ordered[prompts:])
        return float(((better - worse) @ weights > 0).mean())

    null = []
    for _ in range(permutations):
        order = source.permuted(np.tile(np.arange(answers), (prompts, 1)), axis=1)
        null.append(accuracy(np.take_along_axis(ordered[:prompts], order[..., None], axis=1)))
    return LearnedOrder(accuracy(ordered[:prompts]), tuple(null), held_out * answers * (answers - 1) // 2)


def _better_and_worse(ordered: Numbers) -> tuple[Numbers, Numbers]:
    """Return the features of the better and the worse answer of every pair, each of shape (pairs, features).

    Args:
        ordered: features of the answers to each prompt, the best first, shape (prompts, answers, features).
    """
    pairs = list(combinations(range(ordered.shape[1]), 2))
    better, worse = (np.concatenate([ordered[:, pair[side]] for pair in pairs]) for side in (0, 1))
    return better, worse
