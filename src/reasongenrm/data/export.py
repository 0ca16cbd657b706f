"""Export a run's records to the layouts that TRL, LLaMA-Factory and OpenRLHF read, or as plain texts.

docs/data.md lists the columns of each layout. They follow these readers:

- `trl`: TRL 1.16 (documentation, "Dataset formats and types"; its trainers' code). The turns are those of the run:
  `reason`, then `assistant`; so the tokenizer needs the reasoning judge's chat template. All are message lists: TRL
  applies no chat template to a string.
- `llamafactory`: LLaMA-Factory 0.9.5 (`data/README.md`; `data/parser.py`, `data/converter.py`), `formatting: sharegpt`,
  with a `dataset_info.json`. It has no GRPO. It trains on every answer of a conversation unless its YAML sets
  `mask_history: true`.
- `openrlhf`: OpenRLHF 0.11 (`datasets/{sft,reward,prompts}_dataset.py`), with `--data.apply_chat_template` and
  `--data.input_key input --data.output_key output`, `--data.prompt_key prompt` or `--data.label_key label`. Its
  preferences must be message lists.
- `plain`: texts; stage 2 reads its SFT records.

Where a string is possible, the prompts of a file are strings if all of them are a single user turn, and message lists
otherwise: a column has one type, or `datasets` cannot read the file. Only TRL's template has a `reason` role: elsewhere
an answer is one text, `<think>\\nreason\\n</think>\\n\\n[[A]]`, as LLaMA-Factory writes a thought.

Other tokenizers read `<|im_end|>`, `</think>` or `<image>` in a text as structure. Texts are data: in all layouts
such a marker (`chat/markers.py`) gets a backslash after its first character.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from reasongenrm.chat.markers import break_markers
from reasongenrm.config.recipe import Recipe
from reasongenrm.console import say
from reasongenrm.errors import ConfigError, DataError
from reasongenrm.records import Message
from reasongenrm.store import read_jsonl, write_json, write_jsonl

Target = Literal["trl", "llamafactory", "openrlhf", "plain"]
Kind = Literal["completion", "preference", "prompts"]
Row = dict[str, Any]

FILES: dict[str, Kind] = {
    "sft": "completion",
    "genrm": "completion",
    "general": "completion",
    "dpo": "preference",
    "grpo": "prompts",
}
"""The record files of a run folder, without `.jsonl`, and the kind of their rows."""

_KEYS: dict[Kind, tuple[str, ...]] = {
    "completion": ("prompt", "completion"),
    "preference": ("prompt", "chosen", "rejected"),
    "prompts": ("prompt", "winner"),
}


@dataclass(frozen=True, slots=True)
class Layout:
    """How a trainer reads one kind of records.

    Attributes:
        convert: turns a row with the columns of its kind into a row of the layout.
        text_prompts: whether a prompt may be a string instead of a message list.
    """

    convert: Callable[[Row], Row]
    text_prompts: bool = False


def export(recipe: Recipe, to: Target, out: Path | None = None) -> None:
    """Write the records of a run in another layout; each file is written whole or not at all.

    Records that the run does not have are skipped, with a note. Memory does not grow with the records.

    Args:
        recipe: names the run folder.
        to: the layout.
        out: folder; None for `runs/<name>/export/<to>`.

    Raises:
        ConfigError: a run without records.
        DataError: a file of records is invalid, or cannot be written.
    """
    folder = out or recipe.folder / "export" / to
    names = [name for name in FILES if (recipe.folder / f"{name}.jsonl").exists()]
    if not names:
        hint = "run 1_prepare.sh first"
        raise ConfigError("no records to export", location=str(recipe.folder), hint=hint)
    descriptions: Row = {}
    escape_counts: Counter[str] = Counter()
    for name in names:
        layout = LAYOUTS[to].get(FILES[name])
        if layout is None:
            say(f"{name}.jsonl: {to} has no reader for it; skipped")
            continue
        rows = _convert(recipe.folder / f"{name}.jsonl", FILES[name], layout, escape_counts)
        count = write_jsonl(folder / f"{name}.jsonl", rows)
        note = f"; chat markers escaped in {escape_counts[name]} rows" if escape_counts[name] else ""
        say(f"{folder / f'{name}.jsonl'}: {count} rows{note}")
        descriptions[f"{recipe.name}_{name}"] = _description(name)
    for name in (name for name in FILES if name not in names):
        say(f"{name}.jsonl: not in this run; skipped")
    if to == "llamafactory":
        write_json(folder / "dataset_info.json", descriptions)


def _convert(path: Path, kind: Kind, layout: Layout, escape_counts: Counter[str]) -> Iterator[Row]:
    """Yield a file's rows converted; `escape_counts` counts the rows with an escaped marker, by file name."""
    text_prompts = layout.text_prompts and all(
        [turn["role"] for turn in row["prompt"]] == ["user"] for row in _rows(path, kind)
    )
    for row in _rows(path, kind):
        safe = {key: _escape(value) for key, value in row.items()}
        escape_counts[path.stem] += safe != row
        if text_prompts:
            safe["prompt"] = safe["prompt"][0]["content"]
        yield layout.convert(safe)


def _rows(path: Path, kind: Kind) -> Iterator[Row]:
    """Yield the columns of a file's rows that their kind has."""
    for number, row in enumerate(read_jsonl(path), 1):
        missing = [key for key in _KEYS[kind] if key not in row]
        if missing:
            hint = "only records that stage 1 wrote can be exported"
            raise DataError(f"missing column {', '.join(missing)}", location=f"{path}:{number}", hint=hint)
        yield {key: row[key] for key in _KEYS[kind]}


def _escape(value: Any) -> Any:
    """Escape the markers in the contents of messages; anything else is returned unchanged."""
    if not isinstance(value, list):
        return value
    return [turn | {"content": break_markers(turn["content"], "\\")} for turn in value]


def _answer(turns: Sequence[Message]) -> str:
    """Return a judge's turns, an optional reason and a verdict, as one text."""
    *reasons, verdict = (turn["content"] for turn in turns)
    return "".join(f"<think>\n{reason}\n</think>\n\n" for reason in reasons) + verdict


def _message(turns: Sequence[Message]) -> Message:
    return Message(role="assistant", content=_answer(turns))


def _input_output(row: Row) -> Row:
    """OpenRLHF reads two strings or two message lists."""
    write = _answer if isinstance(row["prompt"], str) else lambda turns: [_message(turns)]
    return {"input": row["prompt"], "output": write(row["completion"])}


def _reason_response(row: Row) -> Row:
    *reasons, response = (turn["content"] for turn in row["completion"])
    return {"prompt": row["prompt"], "reason": "".join(reasons), "response": response}


def _preference(answer: Callable[[Sequence[Message]], Any], prompt: str = "prompt") -> Callable[[Row], Row]:
    """Return the function that writes preferences, given how it writes an answer and calls the prompt."""
    return lambda row: {prompt: row["prompt"]} | {key: answer(row[key]) for key in ("chosen", "rejected")}


LAYOUTS: Mapping[str, Mapping[Kind, Layout]] = {
    "trl": {kind: Layout(dict) for kind in _KEYS},
    "llamafactory": {
        "completion": Layout(lambda row: {"messages": [*row["prompt"], _message(row["completion"])]}),
        "preference": Layout(_preference(_message, "messages")),
    },
    "openrlhf": {
        "completion": Layout(_input_output, text_prompts=True),
        "preference": Layout(_preference(lambda turns: [_message(turns)])),
        "prompts": Layout(lambda row: {"input": row["prompt"], "label": row["winner"]}, text_prompts=True),
    },
    "plain": {
        "completion": Layout(_reason_response, text_prompts=True),
        "preference": Layout(_preference(_answer), text_prompts=True),
        "prompts": Layout(dict, text_prompts=True),
    },
}
"""Layout -> how it writes each kind of row; a kind that is missing has no reader there."""


def _description(name: str) -> Row:
    """Return a file's entry in LLaMA-Factory's `dataset_info.json`."""
    ranking = FILES[name] == "preference"
    columns = ["messages", *(["chosen", "rejected"] if ranking else [])]
    return {
        "file_name": f"{name}.jsonl",
        "formatting": "sharegpt",
        "ranking": ranking,
        "columns": {column: column for column in columns},
        "tags": {f"{tag}_tag": tag for tag in ("role", "content", "user", "assistant", "system")},
    }
