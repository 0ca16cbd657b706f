"""A judge that `reasongenrm serve` has loaded already, found by a note in the run folder and asked instead of loading it again.

The server writes the note when its judge is ready, and removes it at its end. The note's name is the judge's fingerprint, which the
server repeats in /health: a server of another judge, recipe, file or version is never asked, and a note that a killed server has left
behind is ignored.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec

import reasongenrm
from reasongenrm.config.recipe import Recipe
from reasongenrm.console import say
from reasongenrm.engines.keys import Secret
from reasongenrm.engines.worker import versions
from reasongenrm.errors import DataError, EngineError, first_line
from reasongenrm.judge.api import WINDOW, Judge
from reasongenrm.judge.criteria import RubricComparison, RubricRating
from reasongenrm.judge.inputs import ComparisonInput, RatingInput
from reasongenrm.judge.remote import request_body
from reasongenrm.records import Comparison, Rating, content_id
from reasongenrm.run import SERVERS, file_hash
from reasongenrm.serving import is_loopback
from reasongenrm.store import read_json, write_json

CONNECT_SECONDS = 5
"""How long a server may take to say which judge it has."""


def judge_fingerprint(recipe: Recipe, name: str) -> str:
    """Return a hash of all that a judge's results depend on: recipe, texts, weights, versions and this package's source.

    Weights count by their names, sizes and times, so that it takes milliseconds.
    """
    model, adapter = recipe.serving(name) if name in recipe.trained else (recipe.model, None)
    weights = [_model_folder(model.path), *(Path(path) for path in (adapter, recipe.judging.meta) if path)]
    texts = [recipe.prompts, *recipe.templates.values()]
    source = Path(reasongenrm.__file__).parent
    return content_id(
        name,
        recipe.model_dump(mode="json"),
        {str(path): file_hash(path) for path in texts},
        [_stamps(folder, "*") for folder in weights],
        _stamps(source, "*.py"),
        versions(),
    )


def _model_folder(path: str) -> Path:
    """Return a model's folder; for a hub id the one in the cache with the commits of its branches."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return (
        Path(path)
        if Path(path).is_dir()
        else Path(HF_HUB_CACHE, f"models--{path.replace('/', '--')}", "refs")
    )


def _stamps(folder: Path, pattern: str) -> list[tuple[str, int, int]]:
    """Return path, size and time of the files in a folder."""
    files = [(path, path.stat()) for path in sorted(folder.rglob(pattern)) if path.is_file()]
    return [(str(path), stat.st_size, stat.st_mtime_ns) for path, stat in files]


@dataclass(frozen=True, slots=True)
class ServerNote:
    """What a server writes about itself.

    Attributes:
        path: the note's file.
        fingerprint: of the judge.
        seed: of the judge.
        api_key_env: environment variable with the key of clients.
    """

    path: Path
    fingerprint: str
    seed: int
    api_key_env: str | None = None

    @classmethod
    def of_judge(cls, recipe: Recipe, judge: str | None, api_key_env: str | None = None) -> ServerNote:
        """Return the note of a recipe's judge, by default the first."""
        fingerprint = judge_fingerprint(recipe, judge or next(iter(recipe.trained)))
        path = recipe.folder / SERVERS / f"{fingerprint}.json"
        return cls(path, fingerprint, recipe.seed, api_key_env)

    @contextmanager
    def published(self, url: str) -> Iterator[None]:
        """Keep the note while a server runs; one that other machines reach has none, and a full disk stops nothing."""
        note = {"url": url, "pid": os.getpid(), "api_key_env": self.api_key_env}
        if not is_loopback(urlsplit(url).hostname or ""):
            yield
            return
        try:
            write_json(self.path, note)
        except DataError as error:
            say(f"{error}; `reasongenrm judge` will not find this server")
        try:
            yield
        finally:
            with suppress(Exception):
                if read_json(self.path) == note:  # not that of a server which started later
                    self.path.unlink()
                    self.path.parent.rmdir()

    def server(self) -> WarmJudge | None:
        """Return a client of the server that has this judge; None where none runs."""
        with suppress(Exception):  # a note that is torn, or of another version
            note = read_json(self.path) if self.path.exists() else {}
            url, pid, variable = note["url"], int(note["pid"]), note["api_key_env"]
            if not is_loopback(urlsplit(url).hostname or ""):
                return None
            key = os.environ.get(variable, "") if variable else None
            if key == "":
                say(f"{url} has this judge, but ${variable}, its key, is not set: loading another one")
                return None
            warm = WarmJudge(url, variable, seed=self.seed)
            if warm.fingerprint == self.fingerprint:
                say(f"asking the judge that process {pid} serves at {url} (--own-engine loads another one)")
                return warm
        return None


class WarmJudge(Judge):
    """A judge in another process on this machine. Its results are those of the judge itself: each window of rows is judged there as
    one block, apart from the requests of others.

    Args:
        url: of its server.
        api_key_env: environment variable with the server's key.
        seed: of the judge.

    Attributes:
        fingerprint: of the judge that the server has.

    Raises:
        EngineError: the key is not in the environment, or the server does not answer.
    """

    def __init__(self, url: str, api_key_env: str | None, *, seed: int) -> None:
        key = Secret(api_key_env, location="api_key_env").reveal()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        timeout = httpx.Timeout(None, connect=CONNECT_SECONDS)
        self._client = httpx.Client(base_url=url, headers=headers, timeout=timeout, trust_env=False)
        self.seed = seed
        self.fingerprint = self._send("GET", "/health", timeout=CONNECT_SECONDS).get("fingerprint")

    def compare_many(self, rows: Iterable[ComparisonInput]) -> Iterator[Comparison]:
        """See `Judge.compare_many`.

        Raises:
            EngineError: the server has stopped, or refuses the rows.
        """
        yield from self._results("/compare_many", rows, ("a", "b"), _comparison)

    def rate_many(self, rows: Iterable[RatingInput]) -> Iterator[Rating]:
        """See `Judge.rate_many` and `compare_many`."""
        yield from self._results("/rate_many", rows, ("answer",), _rating)

    def _results(
        self, path: str, rows: Iterable[Any], names: tuple[str, ...], read: Callable[[dict[str, Any]], Any]
    ) -> Iterator[Any]:
        source = iter(rows)
        while window := list(islice(source, WINDOW)):
            answer = self._send("POST", path, {"rows": [request_body(row, *names) for row in window]})
            for _, result in zip(window, answer["results"], strict=True):
                yield read(result)

    def _send(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        hint = "run the same command again; with --own-engine it loads its own judge"
        content = None if body is None else json.dumps(body).encode("ascii")
        headers = {"Content-Type": "application/json"}
        try:
            response = self._client.request(method, path, content=content, headers=headers, **options)
            answer = response.json()
        except (httpx.HTTPError, ValueError) as error:
            problem = f"the judge's server does not answer: {first_line(error)}"
            raise EngineError(problem, location=str(self._client.base_url), hint=hint) from None
        if not response.is_success:
            problem = f"the judge's server refuses: {answer.get('error')}"
            raise EngineError(problem, location=str(self._client.base_url), hint=hint)
        return answer

    def close(self) -> None:
        """Close the connection; the server stays."""
        self._client.close()


def _comparison(row: dict[str, Any]) -> Comparison:
    """Return the record of `judge.columns.comparison_columns`."""
    return msgspec.convert(row, RubricComparison if "criteria" in row else Comparison)


def _rating(row: dict[str, Any]) -> Rating:
    """Return the record of `judge.columns.rating_columns`."""
    return msgspec.convert(row, RubricRating if "criteria" in row else Rating)
