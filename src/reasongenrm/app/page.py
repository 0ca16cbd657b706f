"""The page of `reasongenrm app`: its tabs and its look; nothing comes from other hosts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from reasongenrm.app.sources import AppSources

TITLE = "reasongenrm"
ROOM = Path(__file__).parent


def build_page(sources: AppSources) -> Any:
    """Return the page's `gr.Blocks`.

    Args:
        sources: inputs of the tabs; a tab without inputs says how to give them.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio as gr

    from reasongenrm.app.browse import build_browse
    from reasongenrm.app.label import build_label
    from reasongenrm.app.rank import build_rank
    from reasongenrm.app.try_judge import build_try

    tabs = {"Try": build_try, "Rank": build_rank, "Label": build_label, "Browse": build_browse}
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=False) as page, gr.Tabs():
        for name, build in tabs.items():
            with gr.Tab(name, id=name.lower()):
                build(sources)
    return page


def page_look() -> dict[str, Any]:
    """Return the theme, and the style sheets and scripts of the tabs, as arguments of `gr.mount_gradio_app`.

    Fonts are the system's. Every `*.css` and `*.js` in this room is a part of the page.
    """
    import gradio as gr

    theme = gr.themes.Soft(
        primary_hue="blue",
        neutral_hue="slate",
        radius_size="sm",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
    scripts = [f"<script>{file.read_text(encoding='utf-8')}</script>" for file in sorted(ROOM.glob("*.js"))]
    return {"theme": theme, "css_paths": sorted(ROOM.glob("*.css")), "head": "\n".join(scripts)}
