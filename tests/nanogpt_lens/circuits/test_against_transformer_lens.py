"""TransformerLens 4.3 estimates edges and runs circuits for one pair of texts at a time: the same numbers.

It needs inputs of queries, keys and values that its bridge of a native nanoGPT does not have, so it runs its own bridge
of the model's export to Hugging Face's GPT-2. Its sign and direction are those of denoising, at the corrupted run; its
edges are at one position each; its embedding is the token's alone, which makes no difference, since both texts have the
same positions.
"""

from __future__ import annotations

import pytest
import torch

from conversion.nanogpt_to_huggingface import to_huggingface
from nanogpt_lens.circuits.estimates import edge_attribution
from nanogpt_lens.circuits.graph import CircuitGraph
from nanogpt_lens.circuits.running import run_circuit
from nanogpt_lens.running.metrics import logit_diff
from tests.nanogpt_lens.patching.patching_helpers import checkpoint, model, texts

pytestmark = pytest.mark.bridge


@pytest.fixture(scope="module")
def their_model(tmp_path_factory):
    from tokenizers import Tokenizer, models
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({str(i): i for i in range(13)}, unk_token="0"))
    special = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), "0")
    folder = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    exported = to_huggingface(checkpoint())
    return TransformerBridge.boot_transformers("gpt2", hf_model=exported, tokenizer=tokenizer, dtype=torch.float64)


def metric(logits):
    return logits[0, -1, 3] - logits[0, -1, 5]


def name_of(writer, reader):
    """Our name of an edge of theirs."""
    start = {"embed": "embed", "mlp_out": f"mlp{writer.layer}", "attn_head_out": f"{writer.layer}.{writer.head}"}
    part = reader.kind.removesuffix("_input")
    end = {"mlp_in": f"mlp{reader.layer}", "logits": "logits"}.get(reader.kind, f"{reader.layer}.{reader.head}.{part}")
    return f"{start[writer.kind]}->{end}"


def pair():
    return (text[:1] for text in texts())


def test_estimates_are_theirs(their_model):
    from transformer_lens.tools.analysis.attribution_patching import EdgeAttributionConfig, attribution_patch

    clean, corrupted = pair()
    theirs = attribution_patch(their_model, clean, corrupted, metric, EdgeAttributionConfig(granularity="edge"))
    options = {"direction": "denoise", "positions": "each", "progress": False}
    ours = edge_attribution(model(), clean, corrupted, logit_diff(3, 5), **options)
    assert len(theirs.edge_scores) == ours.values.numel()
    for (writer, reader), score in theirs.edge_scores.items():
        value = ours.at(edge=name_of(writer, reader), pos=writer.position)
        assert float(value) == pytest.approx(score, abs=1e-10)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_faithfulness_is_theirs(their_model, share):
    from transformer_lens.tools.analysis.attribution_patching import (
        EdgeAttributionConfig,
        attribution_patch,
        faithfulness,
    )

    clean, corrupted = pair()
    every = attribution_patch(
        their_model, clean, corrupted, metric, EdgeAttributionConfig(granularity="edge")
    ).edge_scores
    graph = CircuitGraph(model())
    drawn = torch.rand(len(graph.edges), generator=torch.Generator().manual_seed(0)) < share
    kept = {str(edge) for edge, flag in zip(graph.edges, drawn.tolist(), strict=True) if flag}
    theirs = faithfulness(their_model, clean, corrupted, metric, [edge for edge in every if name_of(*edge) in kept])
    ours = run_circuit(model(), sorted(kept), clean, corrupted, logit_diff(3, 5), progress=False)
    assert theirs.circuit_size == len(kept) * clean.shape[1]
    assert float(ours.faithfulness[0]) == pytest.approx(theirs.recovered, abs=1e-9)
    assert float(ours.full[0]) == pytest.approx(theirs.full_metric, abs=1e-10)
    assert float(ours.empty[0]) == pytest.approx(theirs.corrupt_metric, abs=1e-10)
