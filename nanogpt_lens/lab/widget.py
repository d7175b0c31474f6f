"""The lab in a notebook, as an anywidget: the same module as in the page."""

from __future__ import annotations

from typing import Any

import anywidget
import traitlets

from nanogpt_lens.lab.bundle import module_source


class LabWidget(anywidget.AnyWidget):
    """The lab in a cell; `state` is what its page saves, as JSON values."""

    _esm: Any = module_source()
    payload = traitlets.Dict().tag(sync=True)
    weights = traitlets.Bytes().tag(sync=True)
    state = traitlets.Dict(allow_none=True, default_value=None).tag(sync=True)
