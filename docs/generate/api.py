"""Reference of the Python API: the objects whose docstrings mkdocstrings renders."""

from __future__ import annotations

SECTIONS = {
    "Judges": ("reasongenrm.judge.api.Judge", "reasongenrm.judge.api.Best", "reasongenrm.judge.comparisons.Comparison",
               "reasongenrm.judge.criteria.RubricComparison", "reasongenrm.judge.criteria.RubricRating",
               "reasongenrm.judge.criteria.RubricListVerdict",
               "reasongenrm.judge.tournament.Ranking", "reasongenrm.judge.remote.RemoteJudge",
               "reasongenrm.service.serve.serve"),
    "Recipes and rubrics": ("reasongenrm.config.loading.load_recipe", "reasongenrm.judge.criteria.load_rubric",
                            "reasongenrm.config.rubric.Rubric"),
    "The scalar reward model": ("reasongenrm.scalar.model.ScalarRewardModel", "reasongenrm.scalar.model.ScoreRanking",
                                "reasongenrm.scalar.best.BestOfN", "reasongenrm.scalar.model.encode"),
    "Answers": ("reasongenrm.answers.model.AnswerEngine",),
    "Rewards for reinforcement learning": ("reasongenrm.rewards.group.GroupReward", "reasongenrm.config.rewards.RewardSettings",
                                           "reasongenrm.rewards.schedule.judge_groups", "reasongenrm.rewards.groups.Group",
                                           "reasongenrm.rewards.groups.GroupRewards", "reasongenrm.rewards.trl.AwaitedReward",
                                           "reasongenrm.rewards.head.HeadReward", "reasongenrm.rewards.verl.compute_score",
                                           "reasongenrm.rewards.swift.register",
                                           "reasongenrm.rewards.alarm.HackingWatch", "reasongenrm.rewards.alarm_callback.alarm_callback"),
    "Errors": ("reasongenrm.errors.ReasonGenRMError", "reasongenrm.errors.ConfigError", "reasongenrm.errors.DataError",
               "reasongenrm.errors.EngineError"),
}  # fmt: skip
"""Heading -> the objects below it."""

RECORDS = "reasongenrm.records"
"""The module of the records, a page of its own."""


def api_page() -> str:
    """Return the page of the Python API as Markdown."""
    lines = [
        "# Python API",
        "",
        "`from reasongenrm import Judge, ScalarRewardModel, load_recipe, load_rubric` works; all other names are imported from their modules.",
        "",
    ]
    for heading, objects in SECTIONS.items():
        lines += [f"## {heading}", ""]
        for path in objects:
            lines += [f"::: {path}", "    options:", "      heading_level: 3", ""]
    return "\n".join(lines)


def records_page() -> str:
    """Return the page of the records as Markdown."""
    options = ["    options:", "      show_root_heading: false", "      show_root_toc_entry: false", "      heading_level: 2"]  # fmt: skip
    return "\n".join(["# Records", "", f"::: {RECORDS}", *options, ""])
