"""SAELens' own training run, on a text dataset and a model of ours, with SAELens' defaults and without separators."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.conftest import convert
from tests.conversion.test_special_ids import TEXTS, bpe, chars, moves

pytestmark = pytest.mark.sae


def settings(folder: Any, **more: Any) -> Any:
    from sae_lens import LanguageModelSAERunnerConfig, LoggingConfig, StandardTrainingSAEConfig

    return LanguageModelSAERunnerConfig(
        sae=StandardTrainingSAEConfig(d_in=16, d_sae=24, l1_coefficient=1.0),
        model_name="nanogpt",
        hook_name="blocks.1.hook_resid_post",
        dataset_path="",
        streaming=False,
        training_tokens=300,
        context_size=12,
        train_batch_size_tokens=48,
        n_batches_in_buffer=4,
        store_batch_size_prompts=4,
        logger=LoggingConfig(log_to_wandb=False),
        device="cpu",
        n_checkpoints=0,
        checkpoint_path=str(folder / "checkpoints"),
        output_path=str(folder / "sae"),
        **more,
    )


PLAIN = {"prepend_bos": False, "sequence_separator_token": None}


@pytest.mark.parametrize(
    ("make", "texts"),
    [
        (chars, TEXTS),
        (moves, ["1. e4 Nf3", "e4 e4"]),
        (lambda f: bpe(f, []), TEXTS),
        (lambda f: bpe(f, ["<|endoftext|>"]), TEXTS),
    ],
)
@pytest.mark.parametrize("options", [{}, PLAIN])
def test_it_trains(tmp_path, make, texts, options):
    from datasets import Dataset
    from sae_lens import LanguageModelSAETrainingRunner

    model = convert(make(tmp_path / "out"))
    dataset = Dataset.from_dict({"text": texts * 10})
    cfg = settings(tmp_path, **options)
    sae = LanguageModelSAETrainingRunner(cfg, override_model=model, override_dataset=dataset).run()
    assert torch.isfinite(sae.W_enc).all()
    assert (tmp_path / "sae" / "sae_weights.safetensors").is_file()


@pytest.mark.parametrize(("options", "separator"), [({}, "\n"), (PLAIN, "")])
def test_the_tokens_that_it_reads(tmp_path, options, separator):
    """Windows of the texts: by default each begins with a line break, and one stands between texts."""
    from datasets import Dataset
    from sae_lens import ActivationsStore

    model = convert(chars(tmp_path / "out"))
    dataset = Dataset.from_dict({"text": TEXTS})
    store = ActivationsStore.from_config(model, settings(tmp_path, **options), override_dataset=dataset)
    rows = store.get_batch_tokens(4)
    assert int(rows.max()) < model.cfg.d_vocab
    text = separator.join(TEXTS)
    assert model.to_string(rows[0]) == (separator + text)[:12]
    if not separator:
        assert "".join(model.to_string(rows)) == text[:48]
