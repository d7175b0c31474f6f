"""What the tests of streams share: small models, a corpus, and two processes on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanogpt_lens.model.loading import load
from tests.making import CHARS, write, write_meta

ROOT = Path(__file__).parents[3]


def small_model(folder: Path, *, bias: bool = True, dtype: torch.dtype = torch.float64, **options: Any) -> Any:
    """A random model of two layers, context 12, with 65 characters."""
    write(folder, bias=bias)
    write_meta(folder)
    return load(folder, dtype=dtype, **options)


def corpus(n: int, *, seed: int = 0) -> Tensor:
    """Random ids [n]."""
    return torch.randint(65, (n,), generator=torch.Generator().manual_seed(seed))


def text_of(ids: Tensor) -> str:
    return "".join(CHARS[i] for i in ids.tolist())


def two_processes(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a script under torchrun with two processes."""
    file = folder / "script.py"
    file.write_text(script)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(file)]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=240)
