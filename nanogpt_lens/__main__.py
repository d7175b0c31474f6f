"""`python -m nanogpt_lens`, and `torchrun --nproc-per-node 2 -m nanogpt_lens`: the command line."""

from nanogpt_lens.cli.app import main

if __name__ == "__main__":
    main()
