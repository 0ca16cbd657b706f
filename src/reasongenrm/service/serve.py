"""Serve a judge or a head until a signal: who may use it, its address, and the time while it loads."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from typing import Any, TypeVar

from reasongenrm import collector
from reasongenrm.console import say, show, waiting_line
from reasongenrm.engines.keys import Secret
from reasongenrm.errors import ConfigError, EngineError
from reasongenrm.judge.api import Judge
from reasongenrm.judge.sharing import SharedJudge
from reasongenrm.service.bodies import DEFAULT_LIMITS, Limits
from reasongenrm.service.loading import LoadingApp
from reasongenrm.service.reward_options import DEFAULT_REWARDS, RewardOptions
from reasongenrm.service.warm import ServerNote
from reasongenrm.serving import LOOPBACK_NAMES, address, is_loopback, listen

T = TypeVar("T")


def serve(
    judge: Judge | Callable[[], Judge],
    host: str = "127.0.0.1",
    port: int = 8080,
    *,
    api_key_env: str | None = None,
    allow_remote: bool = False,
    model: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
    ends: tuple[str, ...] = (),
    rewards: RewardOptions = DEFAULT_REWARDS,
    note: ServerNote | None = None,
) -> None:
    """Serve a judge until SIGINT or SIGTERM; requests received before are answered, later ones refused. Prints its address at once.

    HTTP has a process of its own (`HTTPProcess`), so that the engine in this one does not wait for it.

    Args:
        judge: a judge, which stays open; or a function that starts one, which is closed at the end. The server answers with status
            503 until it has started.
        host, port: address to listen on; port 0 selects a free port.
        api_key_env: environment variable with the bearer key that clients must send.
        allow_remote: accept clients from other machines without a key.
        model: the model's name in /health.
        limits: of one request.
        ends: texts removed from the end of OpenRLHF responses, such as the policy's `<|im_end|>`.
        rewards: settings of rewards and cohorts.
        note: by which `reasongenrm judge` finds this server, for a judge of a recipe.

    Raises:
        ConfigError: other machines could use the judge without a key, or the address is in use.
        EngineError: FastAPI or uvicorn is missing, or the key is not in the environment; the judge cannot be started, or the
            process of HTTP has ended.
    """
    rewards.check_size(limits)
    try:
        from reasongenrm.service.http_process import AppSettings, http_process
    except ImportError as error:
        raise _missing(error) from None
    _, hosts = access("judge", host, api_key_env, allow_remote=allow_remote)
    settings = AppSettings(
        api_key_env, model, limits, ends, hosts, note.fingerprint if note else None, rewards
    )
    with ExitStack() as stack:
        listening = stack.enter_context(listen(host, port))
        url, began = address(listening), time.monotonic()
        process = stack.enter_context(http_process(listening, settings))
        if isinstance(judge, Judge):
            process.answer_for(stack.enter_context(SharedJudge(judge)))
            show(f"the judge is served at {url}")
        else:
            show(f"the judge is served at {url}")
            with waiting_line("loading the judge"):
                running = stack.enter_context(judge())
                process.answer_for(stack.enter_context(SharedJudge(running)))
            say(f"the judge is ready after {time.monotonic() - began:.0f} s")
        stack.callback(collector.stop)
        with note.published(url) if note else nullcontext():
            process.wait()


def serve_app(
    load: Callable[[ExitStack], T],
    create: Callable[[T, str | None, frozenset[str] | None], Any],
    name: str,
    host: str,
    port: int,
    *,
    api_key_env: str | None,
    allow_remote: bool,
    model: str | None,
) -> None:
    """Serve an app in a thread of this process until SIGINT or SIGTERM; see `serve`.

    While it loads, requests are refused (see `LoadingApp`). The main thread loads, so that a signal ends it, as does an error.

    Args:
        load: returns what is served, once the address is bound; its stack is closed at the end.
        create: returns the app of that, for a key and the host names that requests may use (see `OwnSite`).
        name: what is served, as messages name it.
        host, port, api_key_env, allow_remote: see `serve`.
        model: the model's name in /health while it loads.

    Raises:
        ConfigError, EngineError: see `serve`, and those of `load`.
    """
    try:
        from reasongenrm.connections import CONNECTIONS, connection_limits, server_thread
    except ImportError as error:
        raise _missing(error) from None
    key, hosts = access(name, host, api_key_env, allow_remote=allow_remote)
    with ExitStack() as stack:
        listening = stack.enter_context(listen(host, port))
        app = LoadingApp(name, model, key, hosts)
        limits = connection_limits(CONNECTIONS)
        with server_thread(app, listening, limits, log_level="info", drain=app.drain) as wait:
            show(f"the {name} is served at {address(listening)}")
            with waiting_line(f"loading the {name}"):
                app.replace(create(load(stack), key, hosts))
            say(f"the {name} is ready after {app.seconds:.0f} s")
            stack.callback(collector.stop)
            wait()


def access(
    name: str, host: str, api_key_env: str | None, *, allow_remote: bool
) -> tuple[str | None, frozenset[str] | None]:
    """Return the key of a server, and the host names that requests may use (see `OwnSite`).

    Raises:
        ConfigError: other machines could use it without a key.
        EngineError: the key is not in the environment.
    """
    key = Secret(api_key_env, location="api_key_env").reveal()
    if not (key or allow_remote or is_loopback(host)):
        raise ConfigError(
            f"anyone who can reach {host} could use the {name} without a key",
            location="host",
            hint="set a key (--api-key-env), or allow it (--allow-remote)",
        )
    # With a key, a proxy in front of this machine may keep its own host name.
    return key, LOOPBACK_NAMES | {host.lower()} if is_loopback(host) and not key else None


def _missing(error: ImportError) -> EngineError:
    hint = "pip install fastapi uvicorn prometheus_client"
    return EngineError(f"cannot serve: {error}", location="serve", hint=hint)
