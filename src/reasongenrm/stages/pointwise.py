"""Stage 1 for judges that rate one answer: the training records, `pointwise.jsonl`."""

from __future__ import annotations

from collections import Counter

from reasongenrm.chat.encoder import judge_encoder, load_tokenizer, template_wording
from reasongenrm.chat.prompts import PromptFile, rating_prompt
from reasongenrm.config.recipe import POINTWISE, Recipe
from reasongenrm.errors import ConfigError
from reasongenrm.judge.rate import LOWEST, RATINGS
from reasongenrm.reasons.ratings import rated_answers
from reasongenrm.records import SFTRecord
from reasongenrm.run import Run
from reasongenrm.stages.lists import read_pairs
from reasongenrm.store import jsonl_writer
from reasongenrm.train.tokens import RECORDS


def pointwise_judges(recipe: Recipe) -> list[str]:
    """Return the names of the judges that rate one answer."""
    return [name for name, judge in recipe.judges.items() if judge.template == POINTWISE]


def check_pointwise(recipe: Recipe) -> None:
    """Check that the prompt file has a wording for ratings, if a judge needs it.

    Raises:
        ConfigError: it has no key `rating`.
    """
    names = pointwise_judges(recipe)
    if names and template_wording(PromptFile.load(recipe.prompts), POINTWISE).rating is None:
        raise ConfigError(
            f"{recipe.prompts} has no key `rating`",
            location=f"judges.{names[0]}.template",
            hint="add the keys `rating` and `rating_delimiters`, as in configs/prompts/judge.yaml",
        )


def write_rating_records(recipe: Recipe, run: Run, prompt_file: PromptFile) -> dict[str, int]:
    """Write `pointwise.jsonl`, where a judge has this template, and return the counts; a record that is too long is left out,
    and counted."""
    if not pointwise_judges(recipe):
        return {}
    wording = template_wording(prompt_file, POINTWISE)
    encoder = judge_encoder(recipe, POINTWISE, load_tokenizer(recipe.model))
    counts: Counter[str] = Counter({POINTWISE: 0})
    with jsonl_writer(run.path(RECORDS[POINTWISE])) as write:
        for answer in rated_answers(read_pairs(run), recipe.records.ratings):
            prompt = rating_prompt(answer.history, answer.answer, wording)
            response = RATINGS.texts[answer.rating - LOWEST]
            if sum(map(len, encoder.record(prompt.messages, "", response))) > recipe.data.max_tokens:
                counts[f"{POINTWISE}_too_long"] += 1
                continue
            counts[POINTWISE] += 1
            write(SFTRecord(prompt.messages, "", response, prompt.id, answer.source).to_row())
    return dict(counts)
