"""How a judge is asked for its verdict, and how its answers are read: by token ids, or by text alone."""

from __future__ import annotations

from collections.abc import Sequence

from reasongenrm.judge.asking import Alone, Asking, Questions
from reasongenrm.judge.encoder import ChatEncoder
from reasongenrm.judge.grammar import DEFAULT, Grammar
from reasongenrm.judge.verdict import (
    VerdictTokens,
    read_completion,
    read_rescue,
    read_text,
    read_text_rescue,
)
from reasongenrm.judge.votes import combine_votes
from reasongenrm.records import Completion, JudgePrompt, Verdict


class Asker(Questions[JudgePrompt, Verdict]):
    """Requests for the verdicts of one judge, and their reading.

    Args:
        asking: limits, votes and seeds.
        encoder: tokenizer and chat template of the judge; None for a server that is asked by messages alone.
        max_model_len: tokens of prompt and completion together.
        grammar: the verdict grammar, where there is no encoder to know it.

    Raises:
        ConfigError: the tokenizer does not tell the verdicts apart.
    """

    def __init__(
        self, asking: Asking, encoder: ChatEncoder | None, max_model_len: int, grammar: Grammar = DEFAULT
    ) -> None:
        tokens = VerdictTokens.of(encoder) if encoder else None
        letters = (tokens.a, tokens.b) if tokens else ()
        alone = Alone(tokens.opening, letters, 1, tokens.header, watch=letters) if tokens else None
        super().__init__(asking, encoder, tokens, alone, max_model_len)
        self.grammar = encoder.grammar if encoder else grammar
        self.closing = self.grammar.closing
        self.plea = f"Now give your verdict alone: {self.grammar.a} or {self.grammar.b}."

    def read(self, prompt: JudgePrompt, completion: Completion) -> Verdict:
        """Return the verdict of one completion; its id is the completion's."""
        if self.encoder is None or self.verdict_tokens is None:
            return read_text(prompt, completion, self.grammar)
        return read_completion(prompt, completion, self.encoder, self.verdict_tokens)

    def read_rescue(self, first: Verdict, completion: Completion) -> Verdict:
        """Return the verdict with what was asked for alone; as it was where that cannot be read either."""
        if self.verdict_tokens is None:
            return read_text_rescue(first, completion, self.grammar)
        return read_rescue(first, completion, self.verdict_tokens)

    def combine(self, prompt: JudgePrompt, votes: Sequence[Verdict]) -> Verdict:
        """Return the verdict of a prompt's votes."""
        return combine_votes(prompt, votes, self.asking.combine, self.asking.margin)
