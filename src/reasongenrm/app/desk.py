"""`AnnotationTab`: what the tabs Rank and Label share: the name, the sessions, skip and undo."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from reasongenrm.answers.journal import AnnotationSession, StaleItem, annotator_name
from reasongenrm.app.cards import lines_html
from reasongenrm.app.notices import error_notice
from reasongenrm.errors import ReasonGenRMError

SessionT = TypeVar("SessionT", bound=AnnotationSession[Any, Any])
SessionT_co = TypeVar("SessionT_co", bound=AnnotationSession[Any, Any], covariant=True)

Updates = dict[Any, Any]
"""Gradio component -> its new value."""

EVENT: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
"""Options of every event: it takes milliseconds and need not wait in a queue, nothing flickers, and no program is invited to call it."""


class AnnotationFiles(Protocol[SessionT_co]):
    """Input, output and journal."""

    def open_session(self, annotator: str) -> SessionT_co:
        """Return the session of an annotator."""

    def write(self) -> None:
        """Write the output from the journal."""


class Desk(Generic[SessionT]):
    """The annotators' sessions of one file. One operation at a time: each takes milliseconds.

    Args:
        open_session: annotator's name -> their session; called once per annotator.
    """

    def __init__(self, open_session: Callable[[str], SessionT]) -> None:
        self._open = open_session
        self._sessions: dict[str, SessionT] = {}
        self._lock = threading.Lock()

    @contextmanager
    def session(self, annotator: str) -> Iterator[SessionT]:
        """Lend the session of an annotator, which has read all that the journal holds now.

        Raises:
            ConfigError: the name cannot be used, or the journal belongs to other items.
            DataError: the journal cannot be read.
        """
        name = annotator_name(annotator)
        with self._lock:
            session = self._sessions.get(name) or self._open(name)
            self._sessions[name] = session
            session.refresh()
            yield session


class AnnotationTab(Generic[SessionT]):
    """A tab's components and what they do. The journal holds the whole state; the browser only holds the annotator's name and
    the id of the item that it shows.

    Args:
        files: input, output and journal; the output is written.
        annotator: first value of the field for the name.

    Attributes:
        who, shown: the annotator's name in its normal form, and the id of the item on the page. They are held by the browser, so
            that they are what the annotator saw, also after a restart of the server.
        message: the last error.
        summary: lines about all annotators.
        work: all that is shown to an annotator with a name.
        parts: components of `view`.

    Raises:
        ConfigError, DataError: the files cannot be used.
    """

    name: ClassVar[str]
    """Beginning of the components' ids."""

    def __init__(self, files: AnnotationFiles[SessionT], annotator: str) -> None:
        import gradio as gr

        self._write, self._desk = files.write, Desk(files.open_session)
        files.write()
        self.who = gr.Textbox(visible="hidden", elem_id=f"{self.name}-who")
        self.shown = gr.Textbox(visible="hidden", elem_id=f"{self.name}-shown")
        with gr.Row() as self._form:
            name = gr.Textbox(
                annotator, label="Your name", max_length=80, elem_id=f"{self.name}-name", scale=3
            )
            begin = self.button("Begin", variant="primary")
        self.message = gr.HTML(elem_id=f"{self.name}-message")
        with gr.Column(visible=False, elem_id=f"{self.name}-work", elem_classes="desk") as self.work:
            self.parts = self.build_item()
            with gr.Row(elem_classes="desk-bar"):
                answers = self.build_bar()
                skip, undo = self.button("Skip"), self.button("Undo")
            self.summary = gr.HTML(elem_id=f"{self.name}-summary")
            leave = self.button("Another annotator", size="sm")
        outputs = [self._form, self.work, self.who, self.shown, self.message, self.summary, *self.parts]
        gr.on([begin.click, name.submit], self.begin, name, outputs, **EVENT)
        answers += [
            ([skip.click], self.skip, [self.who, self.shown]),
            ([undo.click], self.undo, [self.who]),
        ]
        for triggers, function, inputs in answers:
            event = gr.on(triggers, function, inputs, outputs, **EVENT)
            event.then(None, js=f"() => reasongenrmTop('{self.name}-work')")
        leave.click(self._leave, None, [self._form, self.work], **EVENT)

    def button(self, text: str, name: str = "", **options: Any) -> Any:
        """Return a button; its id ends in `name`, or else in the first word of its text."""
        import gradio as gr

        identity = f"{self.name}-{name or text.split()[0].lower()}"
        return gr.Button(text, elem_id=identity, min_width=90, **options)

    def build_item(self) -> list[Any]:
        """Add the components that show an item, and return those that `view` updates."""
        raise NotImplementedError

    def build_bar(self) -> list[tuple[list[Any], Callable[..., Updates], list[Any]]]:
        """Add the fields and buttons of an answer, and return triggers, function and inputs of each event."""
        raise NotImplementedError

    def summary_lines(self) -> list[str]:
        """Return what all annotators have done, and how they agree."""
        raise NotImplementedError

    def view(self, session: SessionT) -> Updates:
        """Return the updates that show the current item."""
        raise NotImplementedError

    def begin(self, name: str) -> Updates:
        """Show the current item of an annotator."""
        return self.apply(name, lambda session: None)

    def skip(self, who: str, shown: str) -> Updates:
        """Move the item on the page to the end."""
        return self.apply(who, lambda session: session.skip(item=shown))

    def undo(self, who: str) -> Updates:
        """Undo the annotator's last operation."""
        return self.apply(who, lambda session: session.undo())

    def apply(self, who: str, operation: Callable[[SessionT], None]) -> Updates:
        """Apply an operation, and return the updates of the page: the new state, or the error alone."""
        import gradio as gr

        message = ""
        try:
            with self._desk.session(who) as session:
                try:
                    operation(session)
                except StaleItem as error:  # the same annotator also works elsewhere
                    message = error_notice(error)
                self._write()
                item = session.current
                return {
                    self._form: gr.update(visible=False),
                    self.work: gr.update(visible=True),
                    self.who: session.annotator,
                    self.shown: item.id if item else "",
                    self.message: message,
                    self.summary: lines_html(self.summary_lines()),
                    **self.view(session),
                }
        except ReasonGenRMError as error:
            return {self.message: error_notice(error)}

    def _leave(self) -> Updates:
        import gradio as gr

        return {self._form: gr.update(visible=True), self.work: gr.update(visible=False)}
