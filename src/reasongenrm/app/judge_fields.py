"""Fields of the tab Try that choose, load and unload the judge, and the line that says which one is loaded."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from reasongenrm.app.judges import recipe_judge, run_judges, server_judge
from reasongenrm.app.notices import error_notice, notice
from reasongenrm.app.slot import JudgeSlot
from reasongenrm.app.sources import AppSources
from reasongenrm.errors import ConfigError, ReasonGenRMError

REFRESH_SECONDS = 0.5
"""How often the line of a judge that loads is written anew."""

OPENAI_CHAT, OPENAI_COMPLETIONS, ANTHROPIC = (
    "OpenAI-compatible, chat",
    "OpenAI-compatible, completions (P(A))",
    "Anthropic",
)


_PRIVATE: dict[str, Any] = {
    "show_progress": "hidden",
    "concurrency_limit": None,
    "api_visibility": "private",
}
"""Of events: no overlay, no queue, and not in the page's own API."""


def status_line(slot: JudgeSlot) -> str:
    """Return the state of the slot as HTML."""
    status = slot.status
    if status.state == "empty":
        return notice("no judge is loaded: choose one and load it")
    if status.state == "loading":
        return notice(f"loading {status.name}: {status.seconds:.0f} s")
    if status.error is not None:
        return error_notice(status.error)
    return notice(f"judge: {status.name} (loaded in {status.seconds:.0f} s)", "good")


def server_settings(kind: str, url: str, model: str, key_variable: str) -> dict[str, Any]:
    """Return the fields of a server as the keys of `OpenAIConfig` or `AnthropicConfig`.

    Raises:
        ConfigError: a field is empty.
    """
    if not model.strip():
        raise ConfigError(
            "the model is missing", location="model", hint="give the model's name on the server"
        )
    settings: dict[str, Any] = {"model": model.strip(), "kind": "openai", "max_retries": 1}
    if key_variable.strip():
        settings["api_key_env"] = key_variable.strip()
    if kind == ANTHROPIC:
        return (
            settings | {"kind": "anthropic", "mode": "direct"} | ({"url": url.strip()} if url.strip() else {})
        )
    if not url.strip():
        hint = "give the base URL, such as http://127.0.0.1:8000/v1"
        raise ConfigError("the URL is missing", location="URL", hint=hint)
    return settings | {"urls": [url.strip()], "api": "chat" if kind == OPENAI_CHAT else "completions"}


class JudgeFields:
    """The fields, and what their buttons do.

    Args:
        sources: inputs of the page.
    """

    def __init__(self, sources: AppSources) -> None:
        import gradio as gr

        self._sources, self._slot = sources, sources.slot
        self.status = gr.HTML(elem_id="judge-status")
        with gr.Accordion("Judge", open=False, elem_id="judge-fields"):
            with gr.Row(equal_height=True):
                self.choice = gr.Dropdown(
                    label="Judge of a run",
                    info=f"trained judges, bases and served judges in {sources.runs}",
                    choices=[],
                    elem_id="judge-choice",
                    scale=3,
                )
                with gr.Column(min_width=140, scale=1):
                    self.load = gr.Button("Load", elem_id="judge-load")
                    self.unload = gr.Button("Unload", elem_id="judge-unload")
            self.problems = gr.HTML()
            if sources.local:
                self._server_fields()
        gr.on(None, self.refresh, None, [self.choice, self.problems], **_PRIVATE)
        # Of a page that is opened while a judge loads, too.
        gr.on(None, self.follow, None, [self.status], **_PRIVATE)
        self.load.click(self.load_run, [self.choice], [self.status], **_PRIVATE)
        self.unload.click(self.unload_judge, None, [self.status], **_PRIVATE)

    def _server_fields(self) -> None:
        import gradio as gr

        with gr.Accordion("A model on a server", open=False, elem_id="server-fields"):
            with gr.Row():
                kind = gr.Dropdown(
                    [OPENAI_CHAT, OPENAI_COMPLETIONS, ANTHROPIC], label="API", value=OPENAI_CHAT
                )
                url = gr.Textbox(
                    label="Base URL", placeholder="http://127.0.0.1:8000/v1", elem_id="server-url"
                )
            with gr.Row():
                model = gr.Textbox(label="Model", elem_id="server-model")
                variable = gr.Textbox(
                    label="Environment variable with the key",
                    info="the variable's name, never the key",
                    placeholder="OPENAI_API_KEY",
                )
            with gr.Row():
                tokenizer = gr.Textbox(label="Tokenizer", info="folder or hub id; for completions alone")
                reasons = gr.Checkbox(True, label="writes a reason before its verdict")
            button = gr.Button("Load the server's model", elem_id="server-load")
        fields = [kind, url, model, variable, tokenizer, reasons]
        button.click(self.load_server, fields, [self.status], **_PRIVATE)

    def follow(self) -> Iterator[str]:
        """Yield the state of the slot until nothing loads any more."""
        while True:
            loading = self._slot.status.state == "loading"
            yield status_line(self._slot)
            if not loading:
                return
            time.sleep(REFRESH_SECONDS)

    def refresh(self) -> tuple[Any, str]:
        """Return the judges that can be loaded now, and the recipes that cannot be read."""
        import gradio as gr

        choices, errors = run_judges(self._sources.runs)
        names = list(choices)
        if self._sources.recipe:
            own = recipe_judge(self._sources.recipe, self._sources.judge).name
            names = [own, *(name for name in names if name != own)]
        loaded = self._slot.status.name
        value = loaded if loaded in names else next(iter(names), None)
        return gr.Dropdown(choices=names, value=value), "".join(map(error_notice, errors))

    def load_run(self, name: str | None) -> Iterator[str]:
        """Load a judge of a run; yield the state of the slot meanwhile."""
        try:
            choices, _ = run_judges(self._sources.runs)
            if self._sources.recipe:
                own = recipe_judge(self._sources.recipe, self._sources.judge)
                choices[own.name] = own
            if name not in choices:
                hint = f"train one first, or start the page with --runs (now {self._sources.runs})"
                problem = f"there is no judge {name!r}" if name else "no judge is chosen"
                raise ConfigError(problem, location="judge", hint=hint)
            self._slot.load(name, choices[name].start)
        except ReasonGenRMError as error:
            yield error_notice(error)
            return
        yield from self.follow()

    def load_server(
        self, kind: str, url: str, model: str, variable: str, tokenizer: str, reasons: bool
    ) -> Iterator[str]:
        """Connect to a judge on a server; yield the state of the slot meanwhile."""
        try:
            settings = server_settings(kind, url, model, variable)
            choice = server_judge(settings, {}, tokenizer=tokenizer.strip() or None, reasons=reasons)
            self._slot.load(choice.name, choice.start)
        except ReasonGenRMError as error:
            yield error_notice(error)
            return
        yield from self.follow()

    def unload_judge(self) -> str:
        """Close the judge."""
        try:
            self._slot.unload()
        except ReasonGenRMError as error:
            return error_notice(error)
        return status_line(self._slot)
