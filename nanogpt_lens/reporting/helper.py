"""The process that `beside` starts: it reads what a report is about, then keys, and writes the section of each key."""

from __future__ import annotations

import os
import pickle
import sys

import torch
import transformer_lens  # noqa: F401  imported while nothing is asked yet

from nanogpt_lens.reporting.making import RECIPES
from nanogpt_lens.reporting.section import section_of
from nanogpt_lens.reporting.subject import open_subject


def main() -> None:
    """Answer until nobody asks."""
    asked = sys.stdin.buffer
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer
    about, n_threads = pickle.load(asked)
    torch.set_num_threads(n_threads)
    subject = open_subject(about)
    while True:
        try:
            key = pickle.load(asked)
        except EOFError:
            return
        answers.write(pickle.dumps(section_of(RECIPES[key], subject)))
        answers.flush()


if __name__ == "__main__":
    main()
