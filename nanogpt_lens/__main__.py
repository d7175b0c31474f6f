"""`python -m nanogpt_lens`, and `torchrun --nproc-per-node 2 -m nanogpt_lens`: the command line."""

from __future__ import annotations

import gc
import sys


def main() -> None:
    """Run the command line; Ctrl-C is one line from the first import on."""
    gc.disable()  # nothing to collect while modules are imported, a tenth of the time of --help
    try:
        from nanogpt_lens.cli.app import main as run

        run()
    except KeyboardInterrupt:
        from nanogpt_lens.cli.waiting import forget_interrupt

        sys.stderr.write("interrupted\n")
        forget_interrupt()
        raise SystemExit(130) from None
    finally:
        gc.freeze()  # else Python looks through all that was imported again at its end, which takes a second


if __name__ == "__main__":
    main()
