"""Sparse autoencoders: SAELens' training on our activations; evaluation against loops and SAELens' own numbers."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from conversion.checkpoint import read_checkpoint
from conversion.errors import CheckpointError
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.interventions.units import Units
from nanogpt_lens.model.access import has_hooks
from nanogpt_lens.neurons.ablation import ablate_neurons
from nanogpt_lens.neurons.activations import get_neuron_activations
from nanogpt_lens.neurons.find import find_neurons
from nanogpt_lens.neurons.search import search_neurons
from nanogpt_lens.results import load_result
from nanogpt_lens.running.batches import losses
from nanogpt_lens.sae.evaluation import SCORES, evaluate_sae
from nanogpt_lens.sae.training import load_sae, save_sae, train_sae
from nanogpt_lens.text.datasets import TextData
from tests.conftest import convert
from tests.making import CHARS, content, write
from tests.nanogpt_lens.neurons.stream_helpers import corpus, small_model, text_of

SMALL = {"d_sae": 24, "k": 4, "tokens": 12_000, "batch_size": 128, "progress": False}
TEXT, OTHER = corpus(3000), corpus(600, seed=1)
NAME = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("model")


@pytest.fixture(scope="module")
def model(folder):
    return small_model(folder)


@pytest.fixture(scope="module")
def sae(model):
    return train_sae(model, TEXT, layer=1, **SMALL)


@pytest.fixture(scope="module")
def wide(model, sae, tmp_path_factory):
    """The same in float64."""
    place = tmp_path_factory.mktemp("sae") / "saved"
    save_sae(sae, place)
    return load_sae(place, model).to(torch.float64)


def activations(model, ids, name=NAME):
    with torch.no_grad():
        return model.run_with_cache(ids)[1][name]


def by_hand(dims=16, **options):
    """A float64 TopK autoencoder without training, at NAME unless told otherwise."""
    from sae_lens import TopKSAE, TopKSAEConfig
    from sae_lens.saes.sae import SAEMetadata

    sizes = {"d_in": dims, "d_sae": 2 * dims, "k": dims, "dtype": "float64"} | options
    sizes.setdefault("metadata", SAEMetadata(hook_name=NAME))
    return TopKSAE(TopKSAEConfig(**sizes))


@pytest.mark.sae
class TestTraining:
    def test_gives_an_autoencoder_of_saelens_that_explains_other_text(self, model, sae):
        from sae_lens import TopKSAE

        assert type(sae) is TopKSAE
        assert (sae.cfg.d_in, sae.cfg.d_sae, sae.cfg.k, sae.cfg.normalize_activations) == (16, 24, 4, "none")
        assert (sae.W_dec.norm(dim=-1) - 1).abs().max() < 1e-5
        x = activations(model, OTHER.view(-1, 12)).flatten(0, 1).float()
        rebuilt = sae.decode(sae.encode(x))
        assert ((sae.encode(x) != 0).sum(-1) <= 4).all()
        assert 1 - (x - rebuilt).square().sum() / (x - x.mean(0)).square().sum() > 0.5

    def test_says_what_it_was_trained_on(self, model, sae):
        metadata = sae.cfg.metadata
        assert metadata.hook_name == NAME
        assert metadata.checkpoint_sha256 == model.nanogpt_origin.sha256
        assert (metadata.training_tokens, metadata.epochs, metadata.context_size) == (12_000, 4.0, 12)
        assert metadata.training_architecture == "topk"

    def test_the_seed_alone_decides(self, model, sae):
        before = torch.get_rng_state()
        again = train_sae(model, TEXT, layer=1, **SMALL)
        torch.rand(3)
        torch.set_rng_state(before)
        with torch.inference_mode():
            under = train_sae(model, TEXT, layer=1, **SMALL)
        assert torch.equal(torch.get_rng_state(), before)
        for name, value in sae.state_dict().items():
            assert torch.equal(again.state_dict()[name], value)
            assert torch.equal(under.state_dict()[name], value)
        other = train_sae(model, TEXT, layer=1, **{**SMALL, "seed": 1})
        assert (other.W_dec - sae.W_dec).abs().max() > 0.1

    def test_leaves_the_model_alone(self, model, sae):
        assert not has_hooks(model)
        assert all(p.grad is None for p in model.parameters())
        assert not model.training

    def test_every_activation_is_read_once_in_each_epoch_in_a_new_order(self, model):
        from nanogpt_lens.interventions.units import Units
        from nanogpt_lens.sae.training import _activations
        from nanogpt_lens.text.corpus import open_corpus

        ids = TEXT[:125]  # ten sequences of twelve, and one of five
        sequences = open_corpus(model, ids).sequences(batch_size=2)
        source = _activations(model, Units(model, activation="resid_post", layers=[1]), sequences, 1, 0)
        epochs = [torch.cat([next(source) for _ in range(sequences.n_batches)]) for _ in range(2)]
        whole = [activations(model, ids[:120].view(-1, 12)).flatten(0, 1), activations(model, ids[None, 120:])[0]]
        expected = torch.cat(whole).float()
        for epoch in epochs:
            assert epoch.shape == expected.shape
            apart = (epoch[:, None] - expected[None]).abs().amax(-1)
            assert (apart.argmin(1).sort().values == torch.arange(125)).all()
            assert apart.min(1).values.max() < 1e-5
        assert not torch.equal(*epochs)

    @pytest.mark.parametrize("normalize", ["none", "covariance_whitening"])
    def test_normalisations_are_folded_in(self, model, normalize):
        found = train_sae(model, TEXT, layer=0, normalize=normalize, **SMALL)
        assert found.cfg.normalize_activations == "none"
        result = evaluate_sae(model, OTHER, found, progress=False)
        assert result.score("explained_variance") > 0.5

    @pytest.mark.parametrize(("site", "width"), [("mlp.hook_post", 64), ("attn.hook_z", 16), ("hook_resid_mid", 16)])
    def test_other_sites(self, model, site, width):
        found = train_sae(model, TEXT, layer=0, activation=site, **SMALL)
        assert found.W_dec.shape == (24, width)
        result = evaluate_sae(model, OTHER, found, progress=False)
        assert result.score("explained_variance") > result.chance[SCORES.index("explained_variance")] + 0.1
        if site == "attn.hook_z":  # SAELens' own transformer takes it as it is
            z = activations(model, OTHER.view(-1, 12), f"blocks.0.{site}")
            assert found(z).shape == z.shape

    def test_the_default_width_is_eight_times_the_residual_streams(self, model):
        found = train_sae(model, TEXT, layer=0, activation="mlp_post", **{**SMALL, "d_sae": None, "tokens": 128})
        assert found.cfg.d_sae == 128

    def test_text_files_and_data_folders(self, model, tmp_path):
        file = tmp_path / "text.txt"
        file.write_text(text_of(TEXT))
        from_ids, from_file = (train_sae(model, c, layer=1, **SMALL) for c in (TEXT, file))
        assert torch.equal(from_file.W_dec, from_ids.W_dec)
        assert from_file.cfg.metadata.corpus == str(file)
        data = TextData(train=TEXT.numpy(), val=OTHER.numpy(), vocabulary=None, name="two parts")
        in_two = train_sae(model, data, layer=1, **SMALL)
        assert torch.equal(in_two.W_dec, from_ids.W_dec)
        np.asarray(TEXT, dtype="<u2").tofile(tmp_path / "train.bin")
        np.asarray(OTHER, dtype="<u2").tofile(tmp_path / "val.bin")
        (tmp_path / "meta.pkl").write_bytes((model.nanogpt_origin.path.parent / "meta.pkl").read_bytes())
        from_folder = train_sae(model, tmp_path, layer=1, **SMALL)
        assert torch.equal(from_folder.W_dec, from_ids.W_dec)
        assert evaluate_sae(model, tmp_path, from_folder, n=5, progress=False).same_text is False
        part = evaluate_sae(model, TEXT[100:400], from_folder, n=5, progress=False)
        assert part.same_text is True
        assert part.seen_share == 1
        assert "IN SAMPLE: THE AUTOENCODER HAS SEEN 100% OF THIS TEXT BEFORE" in repr(part)
        windows = TEXT[:360].view(-1, 36)[torch.randperm(10, generator=torch.Generator().manual_seed(0))]
        assert evaluate_sae(model, windows.flatten(), from_folder, n=5, progress=False).in_sample

    def test_is_silent(self, model, capfd):
        train_sae(model, TEXT, layer=1, **{**SMALL, "tokens": 1000})
        assert capfd.readouterr() == ("", "")
        train_sae(model, TEXT, layer=1, **{**SMALL, "tokens": 1000, "progress": True})
        assert "Training SAE" in capfd.readouterr().err

    @pytest.mark.parametrize("normalize", ["expected_average_only_in", "none"])
    def test_a_killed_training_goes_on_to_the_same_autoencoder(self, model, tmp_path, monkeypatch, normalize):
        from sae_lens.training.sae_trainer import SAETrainer

        from nanogpt_lens.core import unfinished

        options = {**SMALL, "normalize": normalize, "layer": 1}
        whole = train_sae(model, TEXT, **options)
        monkeypatch.setattr(unfinished, "SAVE_EVERY", 0.0)
        step, steps = SAETrainer.step, []

        def failing(self, batch):
            steps.append(self.n_training_steps)
            if len(steps) == 8:
                raise KeyboardInterrupt
            return step(self, batch)

        monkeypatch.setattr(SAETrainer, "step", failing)
        with pytest.raises(KeyboardInterrupt):
            train_sae(model, TEXT, resume=tmp_path / "state", **options)
        assert len(list((tmp_path / "state").iterdir())) == 2
        with pytest.raises(AnalysisError, match="unfinished run of another model, corpus or set of options"):
            train_sae(model, TEXT, resume=tmp_path / "state", **{**options, "seed": 9})
        again = train_sae(model, TEXT, resume=tmp_path / "state", **options)
        assert steps[:9] == [*range(8), 7]
        assert not (tmp_path / "state").exists()
        for name, tensor in whole.state_dict().items():
            assert torch.equal(tensor, again.state_dict()[name]), name

    def test_a_damaged_state_is_one_sentence(self, model, tmp_path):
        (tmp_path / "unfinished-sae.json").write_text("{")
        with pytest.raises(AnalysisError, match="cannot be read .* delete .* to start again"):
            train_sae(model, TEXT, layer=1, resume=tmp_path, **SMALL)


@pytest.mark.sae
class TestSaving:
    def test_round_trip_in_saelens_own_format(self, model, sae, tmp_path):
        from sae_lens import SAE

        assert save_sae(sae, tmp_path / "there") == tmp_path / "there"
        x = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
        for found in (load_sae(tmp_path / "there", model), SAE.load_from_disk(tmp_path / "there")):
            assert torch.equal(found.encode(x), sae.encode(x))
            assert torch.equal(found(x), sae(x))
            assert found.cfg.to_dict() == sae.cfg.to_dict()
        with pytest.raises(CheckpointError, match="exists already"):
            save_sae(sae, tmp_path / "there")

    def test_output(self, model, sae, tmp_path):
        found = train_sae(model, TEXT, layer=1, output=tmp_path / "new", **SMALL)
        assert torch.equal(load_sae(tmp_path / "new", model).W_dec, found.W_dec)
        with pytest.raises(CheckpointError, match="exists already"):
            train_sae(model, TEXT, layer=1, output=tmp_path / "new", **SMALL)
        assert [p.name for p in tmp_path.iterdir()] == ["new"]

    def test_another_models_autoencoder(self, model, sae, folder, tmp_path):
        save_sae(sae, tmp_path / "sae")
        torch.save(content(seed=5), tmp_path / "ckpt.pt")
        other = convert(read_checkpoint(tmp_path), dtype=torch.float64)
        with pytest.raises(AnalysisError, match="trained on the checkpoint .* transfer=True"):
            load_sae(tmp_path / "sae", other)
        moved = load_sae(tmp_path / "sae", other, transfer=True)
        result = evaluate_sae(other, OTHER, moved, progress=False)
        own = evaluate_sae(model, OTHER, sae, progress=False)
        assert result.score("explained_variance") < own.score("explained_variance")
        folded = convert(read_checkpoint(folder), process_weights=True)
        with pytest.raises(AnalysisError, match="transfer=True"):
            load_sae(tmp_path / "sae", folded)
        assert load_sae(tmp_path / "sae", convert(read_checkpoint(folder))).cfg.d_sae == 24  # in float32

    def test_one_that_names_no_model(self, model, tmp_path):
        save_sae(by_hand(), tmp_path / "sae")
        with pytest.raises(AnalysisError, match="does not name"):
            load_sae(tmp_path / "sae", model)
        assert load_sae(tmp_path / "sae", model, transfer=True).cfg.k == 16

    def test_another_width(self, model, tmp_path):
        save_sae(by_hand(dims=8), tmp_path / "sae")
        with pytest.raises(AnalysisError, match="d_in=8; expected 16"):
            load_sae(tmp_path / "sae", model, transfer=True)

    def test_nothing_there_or_damaged(self, model, sae, tmp_path):
        with pytest.raises(AnalysisError, match="holds no autoencoder"):
            load_sae(tmp_path / "nowhere", model)
        save_sae(sae, tmp_path / "sae")
        weights = tmp_path / "sae" / "sae_weights.safetensors"
        weights.write_bytes(weights.read_bytes()[:100])
        with pytest.raises(AnalysisError, match="cannot be read"):
            load_sae(tmp_path / "sae", model)
        (tmp_path / "sae" / "cfg.json").write_text("{")
        with pytest.raises(AnalysisError, match="cannot be read"):
            load_sae(tmp_path / "sae", model)

    def test_a_scale_that_is_not_saved(self, model):
        with pytest.raises(AnalysisError, match="expected_average_only_in"):
            evaluate_sae(model, OTHER, by_hand(normalize_activations="expected_average_only_in"))


@pytest.mark.sae
class TestEvaluation:
    def test_equals_a_plain_loop(self, model, wide):
        ids = OTHER.view(-1, 12)
        result = evaluate_sae(model, OTHER, wide, n=1000, progress=False)
        x = activations(model, ids)
        mean = x.flatten(0, 1).mean(0)
        rebuilt = wide(x)

        def loss(value):
            logits = model.run_with_hooks(ids, fwd_hooks=[(NAME, lambda v, hook: value)])
            return float(cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()))

        with torch.no_grad():
            clean, spliced, zero = loss(x), loss(rebuilt), loss(torch.zeros_like(x))
            at_mean = loss(mean.expand_as(x))
            active = wide.encode(x) != 0
            expected = {
                "l0": active.double().sum(-1).mean(),
                "explained_variance": 1 - (x - rebuilt).square().sum() / (x - mean).square().sum(),
                "cosine": ((x * rebuilt).sum(-1) / x.norm(dim=-1) / rebuilt.norm(dim=-1)).mean(),
                "loss_clean": clean,
                "loss_sae": spliced,
                "loss_zero": zero,
                "loss_mean": at_mean,
                "recovered_zero": (zero - spliced) / (zero - clean),
                "recovered_mean": (at_mean - spliced) / (at_mean - clean),
                "dead": (active.sum((0, 1)) == 0).double().mean(),
            }
        assert set(expected) == set(SCORES)
        for name, value in expected.items():
            assert abs(result.score(name) - value) < 1e-9, name
        assert (result.frequency - active.double().mean((0, 1))).abs().max() < 1e-12
        assert result.dead == [i for i in range(24) if not active[..., i].any()]
        assert result.n_tokens == 600
        assert result.density(bins=7).features.sum() == 24 - len(result.dead)

    def test_equals_saelens_own_numbers(self, model, wide):
        from sae_lens.evals import get_downstream_reconstruction_metrics, get_sparsity_and_variance_metrics
        from sae_lens.training.activation_scaler import ActivationScaler

        ids = OTHER.view(-1, 12)
        store = SimpleNamespace(get_batch_tokens=lambda n: ids)
        loss = get_downstream_reconstruction_metrics(wide, model, store, ActivationScaler(), False, True, 1, 50)
        rest, features = get_sparsity_and_variance_metrics(
            wide, model, store, ActivationScaler(), 1, False, True, True, True, 50, {}
        )
        result = evaluate_sae(model, OTHER, wide, n=50, progress=False)
        theirs = {
            "l0": rest["l0"],
            "explained_variance": rest["explained_variance"],
            "cosine": rest["cossim"],
            "loss_clean": loss["ce_loss_without_sae"],
            "loss_sae": loss["ce_loss_with_sae"],
            "loss_zero": loss["ce_loss_with_ablation"],
            "recovered_zero": loss["ce_loss_score"],
        }
        for name, value in theirs.items():
            assert abs(result.score(name) - value) < 1e-5, name
        assert (result.frequency - torch.tensor(features["feature_density"])).abs().max() < 1e-6

    def test_the_control_by_hand(self, model, wide):
        result = evaluate_sae(model, OTHER, wide, n=50, seed=3, progress=False)
        x = activations(model, OTHER.view(-1, 12)).flatten(0, 1)
        centred = x - x.mean(0)
        directions = torch.randn(24, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        directions /= directions.norm(dim=-1, keepdim=True)
        strength = centred @ directions.T
        kept = strength.where(strength >= strength.topk(4).values[:, -1:], torch.zeros(())).relu()
        rebuilt = kept @ directions
        factor = torch.linalg.lstsq(rebuilt.reshape(-1, 1), centred.reshape(-1, 1)).solution.item()
        expected = 1 - (centred - factor * rebuilt).square().sum() / centred.square().sum()
        chance = dict(zip(SCORES, result.chance.tolist(), strict=True))
        assert abs(chance["explained_variance"] - expected) < 1e-9
        assert abs(chance["l0"] - (kept > 0).double().sum(-1).mean()) < 1e-9
        assert chance["loss_zero"] == result.score("loss_zero")
        assert result.score("explained_variance") > chance["explained_variance"]

    def test_a_perfect_one_and_one_that_knows_the_mean_only(self, model):
        perfect, constant = by_hand(), by_hand()
        directions = torch.cat([torch.eye(16), -torch.eye(16)]).double()
        perfect.W_dec.data.copy_(directions)
        perfect.W_enc.data.copy_(directions.T)
        result = evaluate_sae(model, OTHER, perfect, n=50, progress=False)
        for name in ("explained_variance", "cosine", "recovered_zero", "recovered_mean"):
            i = SCORES.index(name)
            assert abs(result.values[i] - 1) < 1e-9
            assert abs(result.low[i] - 1) < 1e-9
        assert abs(result.score("l0") - 16) < 1e-9
        constant.W_dec.data.zero_()
        constant.b_dec.data.copy_(activations(model, OTHER.view(-1, 12)).flatten(0, 1).mean(0))
        result = evaluate_sae(model, OTHER, constant, n=50, progress=False)
        assert abs(result.score("explained_variance")) < 1e-9
        assert abs(result.score("recovered_mean")) < 1e-9

    def test_intervals_of_ratios(self, model, wide):
        result = evaluate_sae(model, OTHER, wide, n=50, progress=False)
        x = activations(model, OTHER.view(-1, 12))
        with torch.no_grad():
            error = (x - wide(x)).square().sum((1, 2))
        variance = (x - x.flatten(0, 1).mean(0)).square().sum((1, 2))
        drawn = torch.randint(50, (4000, 50), generator=torch.Generator().manual_seed(9))
        ratios = 1 - error[drawn].sum(1) / variance[drawn].sum(1)
        ends = ratios.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
        i = SCORES.index("explained_variance")
        width = ends[1] - ends[0]
        assert abs(result.low[i] - ends[0]) < 0.15 * width
        assert abs(result.high[i] - ends[1]) < 0.15 * width
        assert result.low[-1].isnan()

    def test_saved_and_loaded(self, model, sae, tmp_path):
        result = evaluate_sae(model, TEXT, sae, n=20, progress=False)
        assert result.same_text is True
        assert not has_hooks(model)
        result.save(tmp_path / "r")
        again = load_result(tmp_path / "r")
        assert torch.equal(again.values, result.values)
        assert torch.equal(again.frequency, result.frequency)
        assert again.same_text is True
        assert "explained_variance" in repr(result)
        json.dumps(dict(result.provenance))

    @pytest.mark.parametrize(
        ("text", "options", "sentence"),
        [
            (OTHER[:20], {"seq_len": 12}, "two windows"),
            (OTHER, {"seq_len": 1}, "two windows"),
            (OTHER, {"seq_len": 13}, "seq_len=13"),
            (OTHER, {"n": 1}, "n is 1"),
            (OTHER, {"seed": -1}, "seed is -1"),
            (torch.full((100,), 65), {}, "has the token 65"),
        ],
    )
    def test_bad_input(self, model, sae, text, options, sentence):
        with pytest.raises(AnalysisError, match=sentence):
            evaluate_sae(model, text, sae, **options)

    def test_no_autoencoder(self, model):
        with pytest.raises(AnalysisError, match="the autoencoder is a str"):
            evaluate_sae(model, OTHER, "sae")


@pytest.mark.sae
class TestFeatures:
    """Features through the functions for neurons, against `sae.encode` and edits of the decoder's directions."""

    def test_activations(self, model, wide):
        ids = OTHER[:60].view(-1, 12)
        found = get_neuron_activations(model, ids, [3, 20], sae=wide)
        expected = wide.encode(activations(model, ids))[..., [3, 20]]
        assert (found.values[:, 0] - expected.transpose(1, 2)).abs().max() < 1e-12

    def test_search(self, model, wide):
        found = search_neurons(model, OTHER, sae=wide, k=3, window=4, progress=False)
        acts = wide.encode(activations(model, OTHER.view(-1, 12))).flatten(0, 1)
        assert (found.values[0] - acts.max(0).values).abs().max() < 1e-12
        assert (found.mean[0] - acts.mean(0)).abs().max() < 1e-12
        assert (found.variance[0] - acts.var(0, correction=0)).abs().max() < 1e-10
        assert (found.sparsity[0] - (acts == 0).double().mean(0)).abs().max() < 1e-12
        fires = acts.max(0).values > 0
        assert torch.equal(found.top_positions[0, fires, 0].long(), acts.argmax(0)[fires])
        centred = wide.W_dec - wide.W_dec.mean(-1, keepdim=True)
        logits = centred @ (model.ln_final.w[:, None] * model.W_U)
        logits -= logits.mean(-1, keepdim=True)
        assert torch.equal(found.promoted[0, :, 0].long(), logits.argmax(-1))
        assert (found.promoted_logits[0, :, 0] - logits.max(-1).values).abs().max() < 1e-5

    @pytest.mark.parametrize("mode", ["zero", "mean"])
    def test_ablation_takes_the_direction_away(self, model, wide, mode):
        ids = OTHER.view(-1, 12)
        acts = wide.encode(activations(model, ids))
        often = (acts > 0).sum((0, 1)).topk(2).indices.tolist()

        def without(value, hook):
            change = acts[..., often] - (acts[..., often].mean((0, 1)) if mode == "mean" else 0)
            return value - change @ wide.W_dec[often]

        with torch.no_grad():
            logits = model(ids), model.run_with_hooks(ids, fwd_hooks=[(NAME, without)])
        before, after = (cross_entropy(x[:, :-1].flatten(0, 1), ids[:, 1:].flatten()) for x in logits)
        found = ablate_neurons(
            model, ids, [(1, f) for f in often], sae=wide, source=mode, controls=2, n=None, progress=False
        )
        assert abs(found.at(score="rise")[0] - (after - before)) < 1e-8  # its decoder was folded in float32
        assert abs(after - before) > 1e-4

    def test_finding(self, model, wide):
        found = find_neurons(
            model, OTHER, set("aeiou"), sae=wide, sample=None, held_out=0, permutations=10, progress=False
        )
        acts = wide.encode(activations(model, OTHER.view(-1, 12))).flatten(0, 1)
        inside = torch.tensor([CHARS[i] in "aeiou" for i in OTHER.tolist()])
        for f in range(24):
            pairs = acts[inside, f][:, None] - acts[~inside, f][None]
            auroc = (pairs > 0).double().mean() + (pairs == 0).double().mean() / 2
            assert abs(found.values[0, f] - auroc) < 1e-12

    @pytest.mark.parametrize("kind", ["hook_z", "not folded", "sparse"])
    def test_autoencoders_that_saelens_stores_otherwise(self, model, kind):
        """z with its heads apart, decoders that are normalised only when used, sparse activations."""
        from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig

        z = "blocks.0.attn.hook_z"
        if kind == "hook_z":
            found, name = train_sae(model, TEXT, layer=0, activation="z", **SMALL).to(torch.float64), z
        else:
            config = TopKTrainingSAEConfig(
                d_in=16,
                d_sae=24,
                k=4,
                dtype="float64",
                use_sparse_activations=kind == "sparse",
                rescale_acts_by_decoder_norm=True,
                decoder_init_norm=0.3,
                metadata=by_hand().cfg.metadata,
            )
            found, name = TopKTrainingSAE(config), NAME
        ids = OTHER.view(-1, 12)
        units = Units(model, sae=found)
        x = activations(model, ids, name)
        with torch.no_grad():
            acts = found.encode(x)
            acts = acts.to_dense() if acts.is_sparse else acts
            assert torch.equal(units.values(0, x), acts)
            chosen = (acts > 0).sum((0, 1)).topk(2).indices.tolist()
            without = acts.clone()
            without[..., chosen] = 0
            expected = x - found.decode(acts) + found.decode(without)
            assert (units.setting(0, chosen, 0.0)(x) - expected).abs().max() < 1e-10
            one = torch.eye(24, dtype=torch.float64)[:, None]  # each feature alone
            alone = (found.decode(one) - found.decode(torch.zeros_like(one)))[:, 0].flatten(1)
        out = model.W_O[0].flatten(0, 1) if kind == "hook_z" else torch.eye(16).double()
        assert (units.directions(0) - alone @ out).abs().max() < 1e-10

    def test_directions_that_depend_on_the_token_are_refused(self, model):
        scaled = by_hand(normalize_activations="layer_norm")
        units = Units(model, sae=scaled)
        with pytest.raises(AnalysisError, match="layer_norm"):
            units.directions(0)
        with pytest.raises(AnalysisError, match="layer_norm"):
            units.setting(0, [1], 0.0)(activations(model, OTHER.view(-1, 12)))


@pytest.mark.sae
class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            ({"layer": 2}, "no layer 2"),
            ({"activation": "q"}, "the activation is 'q'"),
            ({"k": 25}, "k is 25; expected at most d_sae=24"),
            ({"k": 0}, "k is 0"),
            ({"tokens": 0}, "tokens is 0"),
            ({"batch_size": 1.5}, "batch_size is 1.5"),
            ({"seed": "a"}, "seed is 'a'"),
            ({"lr": 0}, "lr is 0"),
            ({"normalize": "layer_norm"}, "normalize is 'layer_norm'"),
            ({"seq_len": 13}, "seq_len=13"),
        ],
    )
    def test_options(self, model, options, sentence):
        with pytest.raises(AnalysisError, match=sentence):
            train_sae(model, TEXT, **{"layer": 1, **SMALL, **options})

    def test_corpus(self, model):
        for bad, sentence in ((torch.full((100,), 65), "has the token 65"), (TEXT[:1], "expected at least 2")):
            with pytest.raises(AnalysisError, match=sentence):
                train_sae(model, bad, layer=1, **SMALL)

    def test_activations_that_are_not_finite(self, tmp_path):
        broken = small_model(tmp_path)
        broken.blocks[0].mlp.b_out.data[3] = torch.inf
        with pytest.raises(AnalysisError, match="not finite"):
            train_sae(broken, TEXT, layer=1, output=tmp_path / "sae", **SMALL)
        assert not (tmp_path / "sae").exists()
        with pytest.raises(AnalysisError, match="not finite"):
            evaluate_sae(broken, OTHER, by_hand(), progress=False)

    def test_divergence(self, model, monkeypatch):
        from sae_lens import TopKTrainingSAE

        monkeypatch.setattr(TopKTrainingSAE, "calculate_aux_loss", lambda self, **k: {"a": k["sae_out"].sum() * 1e39})
        with pytest.raises(AnalysisError, match="diverged"):
            train_sae(model, TEXT, layer=1, **SMALL)

    def test_without_saelens(self, model, monkeypatch):
        monkeypatch.setitem(sys.modules, "sae_lens", None)
        with pytest.raises(AnalysisError, match="pip install sae-lens"):
            train_sae(model, TEXT, layer=1)


@pytest.mark.bridge
def test_under_transformer_lens_4(tmp_path):
    model = small_model(tmp_path)
    for call in (
        lambda: train_sae(model, TEXT, layer=1),
        lambda: load_sae(tmp_path, model),
        lambda: evaluate_sae(model, TEXT, None),
    ):
        with pytest.raises(AnalysisError, match=r"needs TransformerLens below 4, and 4.*`pip install sae-lens 'tra"):
            call()


@pytest.mark.sae
def test_logits_at_some_positions_with_an_autoencoder_in_place_of_the_last_hook(folder):
    """The hook point that would leave out the other positions is no hook point then."""
    from sae_lens import HookedSAETransformer

    write(folder / "with_sae", n_layer=2)
    model = convert(read_checkpoint(folder / "with_sae"), dtype=torch.float64, model_class=HookedSAETransformer)
    tokens = torch.randint(65, (3, 12), generator=torch.Generator().manual_seed(0))
    before = losses(model, tokens, [2, 7])
    model.add_sae(by_hand())
    expected = cross_entropy(model(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    found = losses(model, tokens, [2, 7])
    torch.testing.assert_close(found, expected.view(3, 11)[:, [2, 7]])
    assert (found - before).abs().max() > 1e-3
