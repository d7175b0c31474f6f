"""A server with small models, and a client of it in this process."""

from __future__ import annotations

from functools import partial
from typing import Any

import anyio
import torch
from mcp import Client

from tests.making import content, random_state, write, write_meta

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"n_layer": 2, "n_head": 3, "n_embd": 24, "block_size": 12},
    "other": {"n_layer": 2, "n_head": 3, "n_embd": 24, "block_size": 12},
    "one": {"n_layer": 1, "n_head": 1, "n_embd": 10, "block_size": 8, "bias": False},
}
"""One layer with one head, and two models of one shape; every parameter is random. "later" is "tiny", two changed."""

PAIRS = [
    {"clean": "the cat sa", "corrupted": "the dat sa", "answer": "t", "wrong": "d"},
    {"clean": "ROMEO: wha", "corrupted": "ROMEO- wha", "answer": "t", "wrong": "n"},
    {"clean": "a rose by ", "corrupted": "a nose by ", "answer": "a", "wrong": "A"},
    {"clean": "Queen of S", "corrupted": "Queek of S", "answer": 56, "wrong": 3},
]

ONE_PAIR = [{"clean": "abcd", "corrupted": "abxd", "answer": "e", "wrong": "y"}]

CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "describe": ("describe", {"model": "tiny"}),
    "run": (
        "run",
        {
            "model": "tiny",
            "text": "the cat",
            "interventions": [{"place": "0.1", "source": "zero"}, {"place": "mlp1", "source": {"scale": 2.0}}],
        },
    ),
    "run on ids": ("run", {"model": "one", "ids": [1, 2, 3], "interventions": [{"place": "0.0", "source": "zero"}]}),
    "find_what_matters": ("find_what_matters", {"model": "tiny", "pairs": PAIRS, "draws": 20, "picture": True}),
    "find_what_matters, one pair": ("find_what_matters", {"model": "one", "pairs": ONE_PAIR}),
    "find_circuit": ("find_circuit", {"model": "tiny", "pairs": PAIRS, "n_edges": 12, "n_random": 20}),
    "describe_component": ("describe_component", {"model": "tiny", "component": "1.2", "n": 8}),
    "describe_component, a neuron": ("describe_component", {"model": "tiny", "component": "L1N5", "n": 8}),
    "picture": ("picture", {"model": "tiny", "analysis": "attention_patterns", "text": "the cat"}),
    "picture of a corpus": ("picture", {"model": "tiny", "analysis": "text_loss", "text": "the cat sat on " * 3}),
    "compare": ("compare", {"model": "tiny", "other": "other", "parts": ["outputs", "weights", "heads"]}),
    "compare, a search": (
        "compare",
        {"model": "tiny", "other": "later", "parts": ["weights", "transplants", "edges"], "search": True},
    ),
    "compare, alone": ("compare", {"model": "tiny", "other": "later", "parts": ["difference_lens", "transplants"]}),
    "report": ("report", {"model": "tiny", "sections": ["loss"]}),
}  # fmt: skip
"""A call of every tool."""


def write_models(folder) -> list[str]:
    """The checkpoints, and their vocabulary beside them."""
    for seed, (name, sizes) in enumerate(SIZES.items()):
        write(folder / name, seed=seed, **sizes)
        write_meta(folder / name)
    later = random_state(**SIZES["tiny"])
    for name, std in (("transformer.h.1.attn.c_proj.weight", 0.3), ("transformer.h.0.mlp.c_proj.weight", 0.05)):
        later[name] = later[name] + std * torch.randn(later[name].shape, generator=torch.Generator().manual_seed(9))
    write(folder / "later", content(later, **SIZES["tiny"]))
    write_meta(folder / "later")
    return [str(folder / name) for name in (*SIZES, "later")]


def call(server: Any, name: str, arguments: dict[str, Any], **options: Any) -> Any:
    """What a tool answers to a client."""

    async def ask() -> Any:
        async with Client(server) as client:
            return await client.call_tool(name, arguments, **options)

    return anyio.run(ask)


def sentence_of(result: Any) -> str:
    """The error, which is one sentence."""
    assert result.is_error
    (content,) = result.content
    assert "\n" not in content.text
    assert "Traceback" not in content.text
    return content.text


run_async = partial(anyio.run)
