"""Write `checkpoints/handmade_induction`: the two-layer model of `tests/handmade.py`, as a nanoGPT checkpoint.

    python scripts/make_handmade.py

Nothing is random but a fixed rotation, and the weights are computed in float64 and rounded to float32 once, so the
command gives the same bytes again. The file is packed in memory, because PyTorch writes a file's own name into it, and
a temporary file has another name each time.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import string
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # for `tests`, which is not installed

from conversion.atomic import replacing, write_text
from conversion.checkpoint import Checkpoint, read_checkpoint, save_checkpoint
from conversion.vocabulary import CharVocabulary
from tests.handmade import INDUCTION, PREVIOUS, SHARPNESS, VOCAB, handmade_checkpoint

NAME = "handmade_induction"
COMMAND = "python scripts/make_handmade.py"


def checkpoint() -> Checkpoint:
    """The model in float32, with the first letters of the alphabet as its characters."""
    made = handmade_checkpoint()
    state = {name: tensor.float() for name, tensor in made.state_dict.items()}
    vocabulary = CharVocabulary(tuple(string.ascii_lowercase[:VOCAB]))
    return replace(made, state_dict=state, vocabulary=vocabulary, run_config={"command": COMMAND})


def sha256(file: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def describe(shipped: Checkpoint, folder: Path) -> dict[str, Any]:
    """All of `config.json`."""
    return {
        "name": NAME,
        "command": COMMAND,
        "heads": {"previous_token": _name(PREVIOUS), "induction": _name(INDUCTION)},
        "sharpness": SHARPNESS,
        "model_args": shipped.model_args,
        "parameters": shipped.n_params,
        "characters": string.ascii_lowercase[:VOCAB],
        "sha256": {name: sha256(folder / name) for name in ("ckpt.pt", "meta.pkl")},
    }


def _name(head: tuple[int, int]) -> str:
    return f"{head[0]}.{head[1]}"


README = """# handmade_induction

A positive control: a nanoGPT whose induction circuit was put there by hand. It was not trained and knows no language.
{n_layer} layers, {n_head} heads, width {n_embd}, context {block_size}, {vocab_size} characters
(`{characters}`), {parameters:,} parameters.

| head | what it does |
|---|---|
| {previous_token} | at position i looks at position i - 1 and copies which character is there |
| {induction} | looks for a position after the present character, and predicts the character there |
| the others, and both MLPs | attend uniformly and write nothing |

A measure of induction must say yes here: prefix matching of {induction} is 1 up to rounding, that of {previous_token}
is 0, that of the others is chance. `notebooks/01_induction_heads.ipynb` starts from it. Where nothing has been repeated
yet, {induction} has nothing to find, spreads its attention over what it has seen, and the model predicts those
characters: its loss there is far above that of a uniform guess. That comes from the construction; it is no property of
induction heads.

```console
$ {command}
```

The construction is in `tests/handmade.py`: orthonormal directions for token, position, previous token and prediction,
and attention scores of {sharpness:g} for a match. The head is not tied to the embedding. The command gives these files
again, to the byte.

| file | SHA-256 |
|---|---|
| ckpt.pt | `{ckpt_sha}` |
| meta.pkl | `{meta_sha}` |
"""


def readme(config: dict[str, Any]) -> str:
    """The text of `README.md`."""
    return README.format(
        **config["model_args"],
        **config["heads"],
        characters=config["characters"],
        parameters=config["parameters"],
        command=config["command"],
        sharpness=config["sharpness"],
        ckpt_sha=config["sha256"]["ckpt.pt"],
        meta_sha=config["sha256"]["meta.pkl"],
    )


def write(folder: Path) -> None:
    """Write the folder."""
    file = save_checkpoint(checkpoint(), folder)
    content = io.BytesIO()
    torch.save(torch.load(file, weights_only=True), content)
    with replacing(file) as temporary:
        temporary.write_bytes(content.getvalue())
    config = describe(read_checkpoint(folder), folder)
    write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
    write_text(folder / "README.md", readme(config))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "checkpoints" / NAME)
    write(parser.parse_args().folder)


if __name__ == "__main__":
    main()
