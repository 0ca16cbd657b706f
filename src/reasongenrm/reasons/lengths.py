"""The length policy of stage 1: every judge prompt leaves room for its verdict, and for a reason of each teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from reasongenrm.chat.encoder import ChatEncoder, judge_encoder, load_tokenizer
from reasongenrm.chat.prompts import PromptFile
from reasongenrm.config.recipe import Recipe
from reasongenrm.reasons.sample import teacher_encoder, teacher_messages
from reasongenrm.records import Drop, JudgePrompt, PreferencePair


class LengthPolicy:
    """Measures judge prompts in tokens, and names the limit that a pair exceeds.

    Args:
        recipe: has the limits `data.max_tokens` and `engine.max_model_len`, the judges' templates and the teachers.
        prompt_file: wording of the prompts.

    Raises:
        ConfigError, EngineError: a tokenizer or a chat template cannot be loaded.
    """

    def __init__(self, recipe: Recipe, prompt_file: PromptFile) -> None:
        self._recipe, self._prompt_file = recipe, prompt_file
        tokenizer = load_tokenizer(recipe.model)
        self._judge_encoders: dict[str, ChatEncoder] = {
            template: judge_encoder(recipe, template, tokenizer)
            for template in sorted({judge.template for judge in recipe.judges.values()})
        }
        verdict = prompt_file.verdict.text("A")
        self._verdict_tokens = {
            name: len(encoder.completion("", verdict)) for name, encoder in self._judge_encoders.items()
        }
        self._teacher_encoders: dict[str, ChatEncoder] = {}
        for name in recipe.teachers if recipe.needs_reasons() else ():
            if encoder := teacher_encoder(recipe, name):
                self._teacher_encoders[name] = encoder

    def tokens(self, prompts: Sequence[JudgePrompt]) -> dict[str, int]:
        """Return the length of the longest of a pair's judge prompts in tokens, per judge template."""
        first = next(iter(self._judge_encoders.values()))
        content = max(len(first.content(prompt.messages[-1]["content"])) for prompt in prompts)
        return {
            name: content + encoder.structure_length(prompts[0].messages)
            for name, encoder in self._judge_encoders.items()
        }

    def problem(
        self, pair: PreferencePair, prompts: Sequence[JudgePrompt], tokens: Mapping[str, int]
    ) -> Drop | None:
        """Return a Drop of stage `length` where a verdict or a reason has no room, else None.

        Args:
            pair: the pair.
            prompts: its judge prompts.
            tokens: `tokens(prompts)`.
        """
        limit = self._recipe.data.max_tokens
        for template, prompt_tokens in tokens.items():
            total = prompt_tokens + self._verdict_tokens[template]
            if total > limit:
                detail = f"{total} tokens without a reason under the template {template!r}; data.max_tokens is {limit}"
                return Drop(pair.id, pair.source, "prompt_too_long", detail, "length")
        for name in self._teacher_encoders:
            for prompt in prompts:
                problem = self._teacher_problem(name, pair, prompt)
                if problem:
                    return Drop(pair.id, pair.source, "longer_than_context", problem, "length")
        return None

    def _teacher_problem(self, name: str, pair: PreferencePair, prompt: JudgePrompt) -> str | None:
        teacher, encoder = self._recipe.teachers[name], self._teacher_encoders[name]
        context = self._recipe.engine.max_model_len
        messages = teacher_messages(pair, prompt, teacher.mode, self._prompt_file)
        # No tokenizer makes more tokens than bytes, and most prompts are far below the limit.
        if (
            len(messages[0]["content"].encode("utf-8"))
            + encoder.structure_length(messages)
            + teacher.max_tokens
            <= context
        ):
            return None
        total = len(encoder.encode(messages, generation=True)) + teacher.max_tokens
        return (
            f"{total} tokens with a reason of {name!r}; engine.max_model_len is {context}"
            if total > context
            else None
        )
