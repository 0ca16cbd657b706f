"""A judge of this suite that works for another verb."""

from __future__ import annotations

from pathlib import Path

from reasongenrm.config.engines import Strict
from reasongenrm.config.loading import load_recipe
from reasongenrm.config.recipe import Recipe


class OwnJudge(Strict):
    """A judge that this suite has trained, or its base, on vLLM.

    Attributes:
        recipe: YAML file of the recipe that trained it.
        overrides: `key=value` overrides of that recipe.
        name: the judge in the recipe, or `base` or `base-direct`; null: the first.
    """

    recipe: str
    overrides: list[str] = []
    name: str | None = None

    def load(self) -> tuple[Recipe, str]:
        """Return the recipe, and the judge's name in it.

        Raises:
            ConfigError: the recipe cannot be used.
        """
        recipe = load_recipe(self.recipe, self.overrides)
        return recipe, self.name or next(iter(recipe.trained), "base")

    def files(self) -> list[Path]:
        """Return the files and folders that change what the judge says.

        Raises:
            ConfigError: the recipe cannot be used.
        """
        recipe, name = self.load()
        weights = [recipe.weights(name)] if name in recipe.trained else []
        return [Path(self.recipe), Path(recipe.prompts), *weights]
