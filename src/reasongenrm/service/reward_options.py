"""`RewardOptions`: what a server says of rewards, and how the keys of a request are merged into it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from reasongenrm.config.loading import validate
from reasongenrm.config.rewards import RewardSettings
from reasongenrm.errors import ConfigError
from reasongenrm.rewards.cohort_samples import DEFAULT_TIMEOUT
from reasongenrm.service.bodies import Limits


@dataclass(frozen=True, slots=True)
class RewardOptions:
    """What a server says of rewards where a request does not.

    Attributes:
        settings: of the rewards.
        cohort: number of samples of a cohort; None: the request has to say it.
        timeout: seconds from a cohort's first sample to its judging.

    Raises:
        ConfigError: the settings, the size or the time cannot be used.
    """

    settings: RewardSettings = field(default_factory=RewardSettings)
    cohort: int | None = None
    timeout: float = DEFAULT_TIMEOUT

    def __post_init__(self) -> None:
        if self.cohort is not None and self.cohort < 2:
            hint = "give the number of samples that the trainer draws for each prompt"
            raise ConfigError(f"{self.cohort} samples are not a group", location="--cohort", hint=hint)
        if not 0 < self.timeout <= 3600:
            hint = "give seconds above 0, up to 3600"
            raise ConfigError(f"not a time: {self.timeout:g}", location="--cohort-timeout", hint=hint)
        _check_units(self.settings, "--rewards: ")

    def check_size(self, limits: Limits) -> None:
        """Raise ConfigError for a cohort that is larger than the limit of requests."""
        if self.cohort is not None and self.cohort > limits.answers:
            hint = f"the limit is {limits.answers}"
            raise ConfigError(f"{self.cohort} samples are too many", location="--cohort", hint=hint)

    def merged(self, own: RewardSettings | None, references: bool) -> RewardSettings:
        """Return the settings of a request: its own keys, then the server's; a `shaping` replaces the server's as a whole.

        Args:
            own: the request's.
            references: whether it has references: the schedule is then `reference`.

        Raises:
            ConfigError: the keys contradict each other, or the references.
        """
        keys = _set_keys(own) if own else {}
        if references and keys.setdefault("schedule", "reference") != "reference":
            hint = "leave out the references, or the schedule"
            problem = f"the schedule {keys['schedule']} compares with no references"
            raise ConfigError(problem, location="settings.schedule", hint=hint)
        theirs = _set_keys(self.settings)
        if keys.get("schedule", "regular") != "regular":
            theirs.pop("degree", None)  # of the server's schedule alone
        hint = "the keys that a request leaves out are the server's, of --rewards"
        settings = validate(RewardSettings, theirs | keys, "", hint, "settings")
        _check_units(settings, "settings.")
        return settings


def _set_keys(settings: RewardSettings) -> dict[str, Any]:
    return {key: getattr(settings, key) for key in settings.model_fields_set}


def _check_units(settings: RewardSettings, prefix: str) -> None:
    """Raise ConfigError for lengths in tokens, which no request states."""
    shaping = settings.shaping
    if shaping and shaping.length_unit == "tokens" and (shaping.length or shaping.overlong):
        hint = "set length_unit to characters; TRL's rewards in the trainer's process know the tokens"
        problem = "the server does not know the answers' lengths in tokens"
        raise ConfigError(problem, location=f"{prefix}shaping.length_unit", hint=hint)


DEFAULT_REWARDS = RewardOptions()
