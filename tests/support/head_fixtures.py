"""The tiny base that heads are trained from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from reasongenrm.scalar.tiny import build_tiny_distilbert
from support.heads import easy_pairs


@pytest.fixture(scope="module")
def _one_thread() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def base(_one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    build_tiny_distilbert(folder, [pair.chosen + " " + pair.rejected for pair in easy_pairs(150, 0)], seed=0)
    return folder
