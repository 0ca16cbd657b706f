"""Sample explanations of verdicts from a teacher: in hindsight (it is told the verdict) or blind (it judges)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from reasongenrm.chat.encoder import ChatEncoder, load_tokenizer
from reasongenrm.chat.prompts import PromptFile, hindsight_prompt
from reasongenrm.chat.verdict import stated_verdicts
from reasongenrm.config.prepare import TeacherConfig
from reasongenrm.config.recipe import Recipe
from reasongenrm.engines.base import Engine, Request, complete_missing, request_seed
from reasongenrm.errors import EngineError
from reasongenrm.records import Completion, JudgePrompt, Letter, Message, PreferencePair, Reason, TeacherMode
from reasongenrm.store import PartStore, to_json


def teacher_messages(
    pair: PreferencePair, prompt: JudgePrompt, mode: TeacherMode, prompts: PromptFile
) -> tuple[Message, ...]:
    """Return what a teacher reads: the judge's own prompt when it is blind, else one that names the winner."""
    return prompt.messages if mode == "blind" else hindsight_prompt(pair, prompt.order, prompts)


def reason_id(prompt: JudgePrompt, teacher: str, number: int) -> str:
    """Return the id of a teacher's n-th sample."""
    return f"{prompt.id}#{teacher}#{number}"


def reason_requests(
    work: Iterable[tuple[PreferencePair, JudgePrompt]],
    encoder: ChatEncoder | None,
    prompts: PromptFile,
    config: TeacherConfig,
    *,
    name: str,
    seed: int,
) -> Iterator[Request]:
    """Yield `samples` requests per judge prompt, each with a seed of its own."""
    stop = (encoder.tokenizer.eos_token,) if encoder else ()
    for pair, prompt in work:
        messages = teacher_messages(pair, prompt, config.mode, prompts)
        ids = tuple(encoder.encode(messages, generation=True)) if encoder else ()
        for number in range(config.samples):
            request = reason_id(prompt, name, number)
            yield Request(
                request,
                ids,
                max_tokens=config.max_tokens,
                temperature=config.temperature,
                top_p=config.top_p,
                seed=request_seed(seed, request),
                stop=stop,
                messages=messages,
            )


def read_reason(
    completion: Completion, text: str, name: str, mode: TeacherMode, told: Letter, prompts: PromptFile
) -> Reason:
    """Read one sample.

    Its verdict is the last one it states. A hindsight teacher that states none meant the one it was told. A verdict
    in the judge's own grammar that closes a blind teacher's text is no part of the reason: the judge writes it in a
    turn of its own.
    """
    stated = stated_verdicts(text, prompts.verdict_phrases, prompts.verdict)
    verdict = stated[-1][1] if stated else told if mode == "hindsight" else None
    return Reason(
        id=completion.id,
        prompt_id=completion.id.partition("#")[0],
        text=prompts.verdict.without_closing(text),
        verdict=verdict,
        logprob=completion.logprob,
        tokens=completion.tokens,
        finish_reason=completion.finish_reason,
        teacher=name,
        mode=mode,
        error=completion.error,
    )


def sample_reasons(
    work: Callable[[], Iterable[tuple[PreferencePair, JudgePrompt]]],
    engine: Engine,
    encoder: ChatEncoder | None,
    prompts: PromptFile,
    config: TeacherConfig,
    *,
    name: str,
    seed: int,
    store: PartStore,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Sample all of a teacher's reasons into the store (rows are `Reason`), in the order of the work.

    Args:
        work: gives pairs with their judge prompts, from the beginning at each call.
        engine: holds the teacher.
        encoder: tokenizer and chat template of the teacher; None for a server that reads messages.
        prompts: wording.
        config: mode, number of samples and sampling options.
        name: of the teacher, recorded with each reason.
        seed: of the run.
        store: of reasons.
        progress: called with the number of requests just done.
    """
    end = encoder.tokenizer.eos_token if encoder else ""
    winners: dict[str, Letter] = {}

    def noted() -> Iterator[tuple[PreferencePair, JudgePrompt]]:
        for pair, prompt in work():
            winners[prompt.id] = prompt.winner
            yield pair, prompt

    def as_reason(completion: Completion) -> dict[str, object]:
        told = winners[completion.id.partition("#")[0]]
        text = completion.text.removesuffix(end).strip()
        return to_json(read_reason(completion, text, name, config.mode, told, prompts))

    complete_missing(
        engine,
        reason_requests(noted(), encoder, prompts, config, name=name, seed=seed),
        store,
        progress=progress,
        convert=as_reason,
    )
    store.finish(reason_id(prompt, name, number) for _, prompt in work() for number in range(config.samples))


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
        raise EngineError(
            f"{model.path} has no chat template",
            location=f"{key}.path",
            hint="use an instruction-tuned teacher",
        )
    return ChatEncoder(tokenizer, tokenizer.chat_template)
