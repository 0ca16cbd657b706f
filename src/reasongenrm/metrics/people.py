"""Agreement of people with each other and with judges, on rows that people have labelled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from statistics import fmean
from typing import Any

import numpy as np

from reasongenrm.metrics.intervals import (
    Interval,
    McNemar,
    clustered_weights,
    holm,
    mcnemar,
    percentile_interval,
)
from reasongenrm.metrics.kappa import (
    accuracy,
    cohen_kappa,
    fleiss_kappa,
    joint_counts,
    krippendorff_alpha,
    macro_f1,
    recall,
)

UNREAD = "unread"
"""The label of a judge whose answer cannot be read: it agrees with nobody."""

SIZES = (25, 50, 100, 200, 400, 800)
"""Numbers of rows for which the width of an interval is estimated."""


@dataclass(frozen=True, slots=True)
class Value:
    """A statistic with its 95% interval.

    Attributes:
        value: None where it is undefined.
        interval: bootstrap over clusters of rows; None where it is undefined or there is one cluster.
    """

    value: float | None
    interval: Interval | None


@dataclass(frozen=True, slots=True)
class LabelTable:
    """Labelled rows as columns; row n is the n-th item of each.

    Attributes:
        kinds: the labels that people may give, such as `A`, `B`, `tie`.
        ids: of the rows.
        clusters: rows of one cluster are resampled together: those with the same prompt are not independent.
        people: annotator -> label, per row.
        lengths: characters of both answers, or of the one.
    """

    kinds: tuple[str, ...]
    ids: Sequence[str]
    clusters: Sequence[str]
    people: Sequence[Mapping[str, str]]
    lengths: Sequence[tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class TwoPeople:
    """Agreement of two annotators.

    Attributes:
        one, other: their names.
        rows: that both have labelled.
        kappa: Cohen's.
        agreement: share of equal labels.
    """

    one: str
    other: str
    rows: int
    kappa: Value
    agreement: Value


@dataclass(frozen=True, slots=True)
class PeopleAgreement:
    """Agreement of all annotators.

    Attributes:
        rows: labelled by someone; `majority` of them have a label that more people gave than any other.
        labels: label -> how often people gave it.
        two: of every two annotators who share rows.
        mean_kappa: mean of their kappas.
        fleiss: of the rows with `fleiss_raters` labels, the commonest number from 2 on; None without such rows.
        fleiss_rows, fleiss_raters: see `fleiss`.
        alpha: Krippendorff's, over all rows with two labels or more; None without such rows.
        others: annotator -> their kappa with the majority of all others: what a judge can be compared with. Only annotators
            with such rows.
    """

    rows: int
    majority: int
    labels: Mapping[str, int]
    two: Sequence[TwoPeople]
    mean_kappa: float | None
    fleiss: Value | None
    fleiss_rows: int
    fleiss_raters: int
    alpha: Value | None
    others: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class SampleSize:
    """Half the width of the 95% interval that this many rows would give.

    Attributes:
        rows: number of labelled rows.
        kappa, accuracy: half widths; None where undefined.
    """

    rows: int
    kappa: float | None
    accuracy: float | None


@dataclass(frozen=True, slots=True)
class JudgeAgreement:
    """Agreement of a judge with people.

    Attributes:
        rows: rows with the judge's label and people's majority.
        agreeing, disagreeing, unread: they add up to `rows`.
        kappa, accuracy, macro_f1: against the majority.
        recall: label -> share of the rows with this majority to which the judge gives it: of `pass` the true-positive rate,
            of `fail` the true-negative rate.
        annotators: annotator -> Cohen's kappa with the judge.
        alpha: Krippendorff's with the judge as one more rater.
        position: share of A among the judge's choices minus that among people's, on rows where both chose; None for
            single answers.
        length: the same for the longer answer.
        sizes: what other numbers of rows would give.
    """

    rows: int
    agreeing: int
    disagreeing: int
    unread: int
    kappa: Value
    accuracy: Value
    macro_f1: Value
    recall: Mapping[str, Value]
    annotators: Mapping[str, Value]
    alpha: Value | None
    position: Value | None
    length: Value | None
    sizes: Sequence[SampleSize]


@dataclass(frozen=True, slots=True)
class JudgeDifference:
    """Two judges on the same rows.

    Attributes:
        one, other: their names.
        rows: with both judges' labels and a majority.
        kappa, accuracy: of `one` minus `other`, with the paired interval.
        test: McNemar's, of right and wrong labels.
        p: its p-value after Holm's correction for all pairs of judges.
    """

    one: str
    other: str
    rows: int
    kappa: Value
    accuracy: Value
    test: McNemar
    p: float


def majority_label(labels: Sequence[str]) -> str | None:
    """Return the label that more people gave than any other; None where there is none."""
    ranked = Counter(labels).most_common(2)
    if not ranked or (len(ranked) == 2 and ranked[0][1] == ranked[1][1]):
        return None
    return ranked[0][0]


class LabelStatistics:
    """Statistics of a table, all of whose intervals resample the same clusters.

    Args:
        table: at least one row.
        seed: of the resamples.
    """

    def __init__(self, table: LabelTable, *, seed: int) -> None:
        self.table, self.seed = table, seed
        self.majority = [majority_label(list(people.values())) for people in table.people]
        self._kinds = (*table.kinds, UNREAD)
        self._weights = clustered_weights(table.clusters, seed=seed)

    def people(self) -> PeopleAgreement:
        """Return the agreement of the annotators."""
        table = self.table
        names = list(dict.fromkeys(name for people in table.people for name in people))
        two = [pair for one, other in combinations(names, 2) if (pair := self._two_people(one, other))]
        kappas = [pair.kappa.value for pair in two if pair.kappa.value is not None]
        counts = self._counts(table.people)
        raters = counts.sum(axis=1).astype(int)
        most, _ = max(
            Counter(int(n) for n in raters if n >= 2).items(), key=lambda item: item[1], default=(0, 0)
        )
        same: Any = np.flatnonzero(raters == most) if most else []
        others = {name: value for name in names if (value := self._against_others(name))}
        return PeopleAgreement(
            rows=len(table.ids),
            majority=sum(label is not None for label in self.majority),
            labels=dict(Counter(label for people in table.people for label in people.values())),
            two=two,
            mean_kappa=fmean(kappas) if kappas else None,
            fleiss=self._value(lambda w: fleiss_kappa(counts[same], w), same) if most else None,
            fleiss_rows=len(same),
            fleiss_raters=most,
            alpha=self._alpha(counts),
            others=others,
        )

    def judge(self, labels: Sequence[str | None]) -> JudgeAgreement | None:
        """Return the agreement of a judge with people; None where no row has its label and a majority.

        Args:
            labels: per row the judge's label, UNREAD, or None where it has not judged the row.
        """
        rows = [n for n, label in enumerate(labels) if label is not None and self.majority[n] is not None]
        if not rows:
            return None
        joint = self._joint(self.majority, labels, rows)
        unread = sum(labels[n] == UNREAD for n in rows)
        agreeing = sum(labels[n] == self.majority[n] for n in rows)
        kinds = range(len(self.table.kinds))
        present = [kind for kind in kinds if joint[:, kind, :].any()]
        names = dict.fromkeys(name for people in self.table.people for name in people)
        with_judge = [
            people if label is None else {**people, "": label}
            for people, label in zip(self.table.people, labels, strict=True)
        ]
        return JudgeAgreement(
            rows=len(rows),
            agreeing=agreeing,
            disagreeing=len(rows) - agreeing - unread,
            unread=unread,
            kappa=self._value(partial(cohen_kappa, joint), rows),
            accuracy=self._value(partial(accuracy, joint), rows),
            macro_f1=self._value(partial(macro_f1, joint, labels=present), rows),
            recall={
                self._kinds[kind]: self._value(partial(recall, joint, label=kind), rows) for kind in present
            },
            annotators={name: value for name in names if (value := self._with_annotator(name, labels))},
            alpha=self._alpha(self._counts(with_judge)),
            position=self._position(labels),
            length=self._length(labels),
            sizes=self._sizes(joint, rows),
        )

    def differences(self, judges: Mapping[str, Sequence[str | None]]) -> list[JudgeDifference]:
        """Return the comparison of every two judges that share rows; see `judge` for the labels."""
        found = []
        for one, other in combinations(judges, 2):
            rows = [
                n for n, both in enumerate(zip(judges[one], judges[other], strict=True))
                if None not in both and self.majority[n] is not None
            ]  # fmt: skip
            if not rows:
                continue
            first, second = (self._joint(self.majority, judges[name], rows) for name in (one, other))
            right = [[judges[name][n] == self.majority[n] for n in rows] for name in (one, other)]

            def difference(function: Any, first: Any = first, second: Any = second) -> Callable[[Any], Any]:
                return lambda w: function(first, w) - function(second, w)

            kappa, share = (self._value(difference(f), rows) for f in (cohen_kappa, accuracy))
            test = mcnemar(*right)
            found.append(JudgeDifference(one, other, len(rows), kappa, share, test, test.p))
        corrected = holm([one.test.p for one in found])
        return [replace(one, p=p) for one, p in zip(found, corrected, strict=True)]

    def _joint(self, one: Sequence[str | None], other: Sequence[str | None], rows: Sequence[int]) -> Any:
        numbers = [[self._kinds.index(str(side[n])) for n in rows] for side in (one, other)]
        return joint_counts(numbers[0], numbers[1], len(self._kinds))

    def _counts(self, people: Sequence[Mapping[str, str]]) -> Any:
        """Return how many raters gave each label, shape (rows, labels)."""
        return np.array(
            [[list(row.values()).count(kind) for kind in self._kinds] for row in people], dtype=float
        )

    def _value(self, function: Callable[[Any], Any], rows: Any) -> Value:
        """Return a weighted statistic of some rows, with its interval."""
        value = float(function(np.ones((1, len(rows))))[0])
        several = len({self.table.clusters[n] for n in rows}) > 1
        interval = percentile_interval(function(self._weights[:, rows])) if several else None
        return Value(None if np.isnan(value) else value, None if np.isnan(value) else interval)

    def _alpha(self, counts: Any) -> Value | None:
        rows = np.flatnonzero(counts.sum(axis=1) >= 2)
        return self._value(lambda w: krippendorff_alpha(counts[rows], w), rows) if len(rows) else None

    def _two_people(self, one: str, other: str) -> TwoPeople | None:
        people = self.table.people
        rows = [n for n, labels in enumerate(people) if one in labels and other in labels]
        if not rows:
            return None
        joint = self._joint([p.get(one) for p in people], [p.get(other) for p in people], rows)
        kappa, share = (self._value(partial(f, joint), rows) for f in (cohen_kappa, accuracy))
        return TwoPeople(one, other, len(rows), kappa, share)

    def _with_annotator(self, name: str, labels: Sequence[str | None]) -> Value | None:
        own = [people.get(name) for people in self.table.people]
        rows = [n for n, label in enumerate(labels) if label is not None and own[n] is not None]
        joint = self._joint(own, labels, rows)
        return self._value(partial(cohen_kappa, joint), rows) if rows else None

    def _against_others(self, name: str) -> Value | None:
        """Return an annotator's kappa with the majority of at least two others."""
        own = [people.get(name) for people in self.table.people]
        rest = [
            majority_label(labels) if len(labels) >= 2 else None
            for labels in ([v for n, v in people.items() if n != name] for people in self.table.people)
        ]
        rows = [n for n, label in enumerate(rest) if label is not None and own[n] is not None]
        joint = self._joint(rest, own, rows)
        return self._value(partial(cohen_kappa, joint), rows) if rows else None

    def _position(self, labels: Sequence[str | None]) -> Value | None:
        if "A" not in self.table.kinds:
            return None
        return self._preference(labels, lambda n: "A")

    def _length(self, labels: Sequence[str | None]) -> Value | None:
        if "A" not in self.table.kinds:
            return None
        lengths = self.table.lengths

        def longer(n: int) -> str | None:
            a, b = lengths[n]
            return None if a == b else "A" if a > b else "B"

        return self._preference(labels, longer)

    def _preference(self, labels: Sequence[str | None], side: Callable[[int], str | None]) -> Value | None:
        """Return how much oftener the judge than people choose a side, on rows where both choose an answer."""
        rows = [
            n for n, label in enumerate(labels)
            if label in ("A", "B") and self.majority[n] in ("A", "B") and side(n)
        ]  # fmt: skip
        if not rows:
            return None
        gaps = np.array([float(labels[n] == side(n)) - float(self.majority[n] == side(n)) for n in rows])
        with np.errstate(invalid="ignore"):
            return self._value(lambda w: w @ gaps / w.sum(axis=1), rows)

    def _sizes(self, joint: Any, rows: Sequence[int]) -> list[SampleSize]:
        """Estimate the widths by resamples of as many clusters as hold that many rows."""
        numbers = {name: n for n, name in enumerate(dict.fromkeys(self.table.clusters[n] for n in rows))}
        places = [numbers[self.table.clusters[n]] for n in rows]
        count = len(numbers)
        found = []
        for size in SIZES:
            drawn = max(1, round(size * count / len(rows)))
            rng = np.random.default_rng(self.seed)
            weights = rng.multinomial(drawn, np.full(count, 1 / count), size=1000)[:, places].astype(float)
            halves = [_half_width(function(joint, weights)) for function in (cohen_kappa, accuracy)]
            found.append(SampleSize(size, *halves))
        return found


def _half_width(values: Any) -> float | None:
    interval = percentile_interval(values)
    return None if interval is None else (interval[1] - interval[0]) / 2
