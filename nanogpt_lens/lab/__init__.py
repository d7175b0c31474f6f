"""The lab: one offline page with the model inside, in which anybody can intervene.

`ngl.lab(...)` is `nanogpt_lens.lab.making.lab`. Importing a file of this folder makes `nanogpt_lens.lab` this module,
and so the module itself can be called.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _CallableModule(ModuleType):
    def __call__(self, *args: Any, **options: Any) -> Any:
        from nanogpt_lens.lab.making import lab

        return lab(*args, **options)


sys.modules[__name__].__class__ = _CallableModule
