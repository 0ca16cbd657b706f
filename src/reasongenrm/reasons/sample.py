"""Sample reasons from a teacher, in hindsight (its prompt names the verdict) or blind (it judges); and their length policy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from reasongenrm.chat.encoder import ChatEncoder, judge_encoder, load_tokenizer, template_wording
from reasongenrm.chat.grammar import stated_verdicts
from reasongenrm.chat.lists import list_hindsight
from reasongenrm.chat.prompts import PromptFile, hindsight_prompt, judge_prompt
from reasongenrm.chat.thoughts import split_thoughts
from reasongenrm.config.prepare import TeacherConfig
from reasongenrm.config.recipe import POINTWISE, Recipe
from reasongenrm.engines.base import Engine, Request, complete_missing, request_seed
from reasongenrm.errors import EngineError
from reasongenrm.records import (
    AnswerList,
    Completion,
    Drop,
    JudgePrompt,
    Letter,
    Message,
    PreferencePair,
    Reason,
    TeacherMode,
)
from reasongenrm.store import PartStore, to_json

PairPrompt = tuple[PreferencePair | AnswerList, JudgePrompt]
"""A judge prompt with the pair, or the list, that it was rendered from."""


def teacher_messages(
    pair: PreferencePair | AnswerList, prompt: JudgePrompt, mode: TeacherMode, prompt_file: PromptFile
) -> tuple[Message, ...]:
    """Return a teacher's prompt: the judge's own for a blind teacher, else one that names the winner."""
    if mode == "blind":
        return prompt.messages
    if isinstance(pair, AnswerList):
        return list_hindsight(pair, prompt, prompt_file)
    return hindsight_prompt(pair, prompt.pair_order, prompt_file)


def reason_ids(prompt_id: str, teacher: str, samples: int) -> list[str]:
    """Return the ids of a teacher's samples."""
    return [f"{prompt_id}#{teacher}#{number}" for number in range(samples)]


def reason_requests(
    pair_prompts: Iterable[PairPrompt],
    encoder: ChatEncoder | None,
    prompt_file: PromptFile,
    config: TeacherConfig,
    *,
    name: str,
    seed: int,
) -> Iterator[Request]:
    """Yield `samples` requests per judge prompt, each with its own seed."""
    stop = (encoder.tokenizer.eos_token,) if encoder else ()
    for pair, prompt in pair_prompts:
        messages = teacher_messages(pair, prompt, config.mode, prompt_file)
        ids = tuple(encoder.encode(messages, generation=True)) if encoder else ()
        for request_id in reason_ids(prompt.id, name, config.samples):
            yield Request(
                request_id,
                ids,
                max_tokens=config.max_tokens,
                temperature=config.temperature,
                top_p=config.top_p,
                seed=request_seed(seed, request_id),
                stop=stop,
                messages=messages,
                thoughts=True,
            )


def read_reason(
    completion: Completion, text: str, name: str, mode: TeacherMode, winner: Letter, prompt_file: PromptFile
) -> Reason:
    """Read one sample.

    Its verdict is the last one that it states; a hindsight teacher that states none means the winner its prompt names.
    A verdict in the judge's own grammar at the end of the text is removed: the judge writes it in a separate turn.

    The thoughts of a reasoning model are a part of the reason, without their tags: the judge's template has its own. A
    verdict inside them is none, because they weigh both; thoughts without an end have none at all.
    """
    thoughts, answer = split_thoughts(text)
    stated = stated_verdicts(answer or "", prompt_file.verdict_phrases, prompt_file.verdict)
    means_winner = mode == "hindsight" and answer is not None
    verdict = stated[-1][1] if stated else winner if means_winner else None
    parts = (thoughts, prompt_file.verdict.without_closing(answer or ""))
    return Reason(
        id=completion.id,
        prompt_id=completion.id.partition("#")[0],
        text="\n\n".join(filter(None, parts)),
        verdict=verdict,
        tokens=completion.tokens,
        finish_reason=completion.finish_reason,
        teacher=name,
        mode=mode,
        error=completion.error,
    )


def sample_reasons(
    pair_prompts: Iterable[PairPrompt],
    engine: Engine,
    encoder: ChatEncoder | None,
    prompt_file: PromptFile,
    config: TeacherConfig,
    *,
    name: str,
    seed: int,
    store: PartStore,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Sample all of a teacher's reasons into the store (rows are `Reason`), in the order of the prompts.

    Args:
        pair_prompts: judge prompts with their pairs, in an order that is the same in every run.
        engine: holds the teacher.
        encoder: tokenizer and chat template of the teacher; None for a server that reads messages.
        config: mode, number of samples and sampling options.
        name: of the teacher, recorded with each reason.
        progress: called with the number of requests just done.
    """
    end = encoder.tokenizer.eos_token if encoder else ""
    winners: dict[str, Letter] = {}  # by prompt id, in the order of the prompts

    def prompt_stream() -> Iterator[PairPrompt]:
        for pair, prompt in pair_prompts:
            winners[prompt.id] = prompt.winner
            yield pair, prompt

    def convert(completion: Completion) -> dict[str, object]:
        winner = winners[completion.id.partition("#")[0]]
        text = completion.text.removesuffix(end).strip()
        return to_json(read_reason(completion, text, name, config.mode, winner, prompt_file))

    requests = reason_requests(prompt_stream(), encoder, prompt_file, config, name=name, seed=seed)
    complete_missing(engine, requests, store, progress=progress, convert=convert)
    store.finish(row for prompt_id in winners for row in reason_ids(prompt_id, name, config.samples))


def teacher_encoder(recipe: Recipe, name: str) -> ChatEncoder | None:
    """Return the encoder of a teacher: its own chat template. None for a server that reads messages.

    Raises:
        EngineError: the teacher has no chat template, or its tokenizer cannot be loaded.
    """
    teacher = recipe.teachers[name]
    if teacher.server is not None and (teacher.server.kind != "openai" or teacher.server.api == "chat"):
        return None
    model, key = teacher.model or recipe.model, f"teachers.{name}.model" if teacher.model else "model"
    tokenizer = load_tokenizer(model, key=f"{key}.path")
    if not tokenizer.chat_template:
        problem = f"{model.path} has no chat template"
        raise EngineError(problem, location=f"{key}.path", hint="use an instruction-tuned teacher")
    return ChatEncoder(tokenizer, tokenizer.chat_template)


class LengthPolicy:
    """Measure judge prompts in tokens: each must leave room for its verdict, and for a reason of each teacher.

    Args:
        recipe: has the limits `data.max_tokens` and `engine.max_model_len`, the judges' templates and the teachers.
        prompt_file: wording of the prompts.

    Raises:
        ConfigError, EngineError: a tokenizer or a chat template cannot be loaded.
    """

    def __init__(self, recipe: Recipe, prompt_file: PromptFile) -> None:
        self._recipe, self._prompt_file = recipe, prompt_file
        tokenizer = load_tokenizer(recipe.model)
        # A judge that rates reads no pairs; its records are measured when they are written.
        templates = sorted({judge.template for judge in recipe.judges.values()} - {POINTWISE})
        self._wordings: dict[str, PromptFile] = {
            template: template_wording(prompt_file, template) for template in templates
        }
        self._judge_encoders: dict[str, ChatEncoder] = {
            template: judge_encoder(recipe, template, tokenizer) for template in templates
        }
        verdict = prompt_file.verdict.text("A")
        self._verdict_tokens = {
            name: len(encoder.completion("", verdict)) for name, encoder in self._judge_encoders.items()
        }
        teachers = recipe.teachers if recipe.needs_reasons() else ()
        encoders = ((name, teacher_encoder(recipe, name)) for name in teachers)
        self._teacher_encoders = {name: encoder for name, encoder in encoders if encoder}

    def tokens(self, pair: PreferencePair, prompts: Sequence[JudgePrompt]) -> dict[str, int]:
        """Return the length of the longest of a pair's judge prompts in tokens, per judge template."""
        if not self._judge_encoders:
            return {}
        first = next(iter(self._judge_encoders.values()))
        content: dict[str, int] = {}  # by the wording's template for pairs
        for wording in self._wordings.values():
            if wording.judge not in content:
                own = wording.judge == self._prompt_file.judge
                worded = prompts if own else [judge_prompt(pair, one.pair_order, wording) for one in prompts]
                texts = (prompt.messages[-1]["content"] for prompt in worded)
                content[wording.judge] = max(len(first.content(text)) for text in texts)
        return {
            name: content[self._wordings[name].judge] + encoder.structure_length(prompts[0].messages)
            for name, encoder in self._judge_encoders.items()
        }

    def problem(
        self, pair: PreferencePair, prompts: Sequence[JudgePrompt], tokens: Mapping[str, int]
    ) -> Drop | None:
        """Return a Drop of stage `length` where a verdict or a reason has no room; `tokens` is `tokens(prompts)`."""
        limit = self._recipe.data.max_tokens
        for template, prompt_tokens in tokens.items():
            total = prompt_tokens + self._verdict_tokens[template]
            if total > limit:
                detail = f"{total} tokens without a reason under the template {template!r}; data.max_tokens is {limit}"
                return Drop(pair.id, pair.source, "prompt_too_long", detail, "length")
        context = self._recipe.engine.max_model_len
        for name, encoder in self._teacher_encoders.items():
            teacher = self._recipe.teachers[name]
            for prompt in prompts:
                messages = teacher_messages(pair, prompt, teacher.mode, self._prompt_file)
                # No tokenizer makes more tokens than bytes, and most prompts are far below the limit.
                most = len(messages[0]["content"].encode("utf-8")) + encoder.structure_length(messages)
                if most + teacher.max_tokens <= context:
                    continue
                total = len(encoder.encode(messages, generation=True)) + teacher.max_tokens
                if total > context:
                    detail = f"{total} tokens with a reason of {name!r}; engine.max_model_len is {context}"
                    return Drop(pair.id, pair.source, "longer_than_context", detail, "length")
        return None
