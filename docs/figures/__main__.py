"""Figures of the README and of the docs: `python docs/figures [FOLDER]` writes them, by default into docs/images."""

from __future__ import annotations

import sys
from pathlib import Path

import conversation
import orders
import pipeline
import sequence

DRAWINGS = {
    "pipeline.svg": pipeline.draw,
    "conversation.svg": conversation.draw,
    "scalar-head.svg": sequence.draw,
    "both-orders.svg": orders.draw,
}
"""File -> the function that draws it."""


def main(folder: Path) -> None:
    """Write all figures into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in DRAWINGS.items():
        (folder / name).write_text(draw().svg(), encoding="utf-8")
        print(folder / name)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images"))
