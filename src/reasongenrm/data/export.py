"""Export a run's records to the layouts that TRL, LLaMA-Factory and OpenRLHF read.

Each layout is named by the columns that its reader asks for, in its own words:

- TRL 1.16 (documentation, "Dataset formats and types"; its trainers' code): conversational prompt-completion with
  `prompt` and `completion`, preference with `prompt`, `chosen` and `rejected`, prompt-only with `prompt`, whose other
  columns go to the reward function. The turns are those of the run: `reason`, then `assistant`; so the tokenizer needs
  the reasoning judge's chat template.
- LLaMA-Factory 0.9.5 (`data/README.md`; `data/parser.py`, `data/converter.py`): JSONL beside a `dataset_info.json`,
  `formatting: sharegpt` with `tags` for role and content; `messages` that end in the assistant's turn, or, with
  `ranking: true`, `messages` that end in the user's with `chosen` and `rejected`, one message each. It has no GRPO.
  It learns every answer of a conversation unless its YAML says `mask_history: true`.
- OpenRLHF 0.11 (`datasets/{sft,reward,prompts}_dataset.py`), with `--data.apply_chat_template`: `input` and `output`
  (`--data.input_key input --data.output_key output`), `prompt`, `chosen` and `rejected` (`--data.prompt_key prompt`),
  `input` and `label` for reinforcement learning (`--data.label_key label`); all conversations are message lists.

The last two know no `reason` role: there a reason and its verdict are one assistant turn, of the form
`<think>\\nreason\\n</think>\\n\\n[[A]]`, which is how LLaMA-Factory spells a thought as well.

Other tokenizers read `<|im_end|>`, `</think>` or `<image>` in a text as structure. Texts are data: in all layouts
such a marker gets a backslash behind its first character.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from reasongenrm.config.recipe import Recipe
from reasongenrm.console import say
from reasongenrm.errors import ConfigError, DataError
from reasongenrm.records import Message
from reasongenrm.store import read_jsonl, write_json, write_jsonl

Target = Literal["trl", "llamafactory", "openrlhf"]


Kind = Literal["completion", "preference", "prompts"]


Row = dict[str, Any]


FILES: dict[str, Kind] = {
    "sft": "completion",
    "genrm": "completion",
    "general": "completion",
    "dpo": "preference",
    "grpo": "prompts",
}
"""The record files of a run folder, without `.jsonl`, and what their rows are."""


_KEYS: dict[Kind, tuple[str, ...]] = {
    "completion": ("prompt", "completion"),
    "preference": ("prompt", "chosen", "rejected"),
    "prompts": ("prompt", "winner"),
}


_MARKER = re.compile(
    r"<(?=\|[^\s<>|]+\|>|/?(?:think|image|video|audio|s|bos|eos|start_of_turn|end_of_turn)>)|\[(?=/?INST\])"
)


def export(recipe: Recipe, to: Target, out: Path | None = None) -> None:
    """Write the records that a run has in another trainer's layout; each file is whole or as it was.

    What the run has not made is skipped, with a note. Memory does not grow with the records.

    Args:
        recipe: names the run folder.
        to: the layout.
        out: folder; `runs/<name>/export/<to>` when not given.

    Raises:
        ConfigError: an unknown layout, or a run that has no records.
        DataError: a file of records is broken, or cannot be written.
    """
    if to not in LAYOUTS:
        raise ConfigError(
            f"there is no layout {to!r}", location="export", hint=f"give one of: {', '.join(LAYOUTS)}"
        )
    folder = out or recipe.folder / "export" / to
    there = [name for name in FILES if (recipe.folder / f"{name}.jsonl").exists()]
    if not there:
        raise ConfigError(
            "there are no records to export", location=str(recipe.folder), hint="run 1_prepare.sh first"
        )
    written: list[str] = []
    for name in there:
        convert = LAYOUTS[to].get(FILES[name])
        if convert is None:
            say(f"{name}.jsonl: {to} has nothing that reads it; skipped")
            continue
        broken: Counter[str] = Counter()
        rows = _converted(recipe.folder, name, convert, broken)
        count = write_jsonl(folder / f"{name}.jsonl", rows)
        note = f"; chat markers broken up in {broken[name]}" if broken else ""
        say(f"{folder / f'{name}.jsonl'}: {count} rows{note}")
        written.append(name)
    for name in FILES.keys() - set(there):
        say(f"{name}.jsonl: this run has none; skipped")
    if to == "llamafactory":
        write_json(
            folder / "dataset_info.json", {f"{recipe.name}_{name}": _described(name) for name in written}
        )


def _converted(folder: Path, name: str, convert: Callable[[Row], Row], broken: Counter[str]) -> Iterator[Row]:
    """Yield a file's rows converted; `broken` counts, under the file's name, rows with a marker in them."""
    path, keys = folder / f"{name}.jsonl", _KEYS[FILES[name]]
    for number, row in enumerate(read_jsonl(path), 1):
        missing = [key for key in keys if key not in row]
        if missing:
            problem = f"the row has no {', '.join(missing)}"
            raise DataError(
                problem, location=f"{path}:{number}", hint="it is of another version: run stage 1 again"
            )
        safe = {key: _safe(row[key]) for key in keys}
        if any(safe[key] != row[key] for key in safe):
            broken[name] += 1
        yield convert(safe)


def _safe(value: Any) -> Any:
    """Break up markers in the contents of messages; anything else is left as it is."""
    if not isinstance(value, list):
        return value
    return [
        Message(role=turn["role"], content=_MARKER.sub(r"\g<0>" + "\\\\", turn["content"])) for turn in value
    ]


def _joined(turns: Sequence[Message]) -> Message:
    """Return the judge's turns, a reason or none and a verdict, as one assistant turn."""
    *reasons, verdict = (turn["content"] for turn in turns)
    thought = "".join(f"<think>\n{reason}\n</think>\n\n" for reason in reasons)
    return Message(role="assistant", content=thought + verdict)


def _as_is(row: Row) -> Row:
    return row


def _sharegpt(row: Row) -> Row:
    return {"messages": [*row["prompt"], _joined(row["completion"])]}


def _sharegpt_ranked(row: Row) -> Row:
    return {"messages": row["prompt"], "chosen": _joined(row["chosen"]), "rejected": _joined(row["rejected"])}


def _input_output(row: Row) -> Row:
    return {"input": row["prompt"], "output": [_joined(row["completion"])]}


def _preference(row: Row) -> Row:
    return {name: [_joined(row[name])] if name != "prompt" else row[name] for name in row}


def _input_label(row: Row) -> Row:
    return {"input": row["prompt"], "label": row["winner"]}


LAYOUTS: Mapping[str, Mapping[Kind, Callable[[Row], Row]]] = {
    "trl": {"completion": _as_is, "preference": _as_is, "prompts": _as_is},
    "llamafactory": {"completion": _sharegpt, "preference": _sharegpt_ranked},
    "openrlhf": {"completion": _input_output, "preference": _preference, "prompts": _input_label},
}
"""Layout -> how it writes each kind of row; a kind that is missing has no reader there."""


_TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "system_tag": "system",
}


def _described(name: str) -> Row:
    """Return a file's entry in LLaMA-Factory's `dataset_info.json`."""
    ranked = FILES[name] == "preference"
    columns = ("messages", "chosen", "rejected") if ranked else ("messages",)
    return {
        "file_name": f"{name}.jsonl",
        "formatting": "sharegpt",
        "ranking": ranked,
        "columns": {column: column for column in columns},
        "tags": _TAGS,
    }
