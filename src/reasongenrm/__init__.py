"""Generative reasoning reward models: prepare reasons, train a judge, count its verdicts."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reasongenrm.config.loading import load_recipe
    from reasongenrm.judge.api import Judge
    from reasongenrm.judge.criteria import load_rubric
    from reasongenrm.scalar.model import ScalarRewardModel

__version__ = "0.1.0"
__all__ = ["Judge", "ScalarRewardModel", "load_recipe", "load_rubric"]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: torch and pydantic take seconds to load."""
    if name == "Judge":
        from reasongenrm.judge.api import Judge

        return Judge
    if name == "ScalarRewardModel":
        from reasongenrm.scalar.model import ScalarRewardModel

        return ScalarRewardModel
    if name == "load_recipe":
        from reasongenrm.config.loading import load_recipe

        return load_recipe
    if name == "load_rubric":
        from reasongenrm.judge.criteria import load_rubric

        return load_rubric
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
