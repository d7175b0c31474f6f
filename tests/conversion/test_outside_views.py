"""What stands outside a conversion and judges it: the run's own data, and the user's own model.py."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from conversion import CheckpointError, check_equivalence, read_checkpoint
from conversion.reference import ModelPyReference
from tests.conftest import GOLDEN, convert
from tests.making import content, write


class TestValidationLoss:
    """The one thing that can expose model_args which both sides believe."""

    @pytest.fixture
    def run(self, tmp_path):
        """A folder whose val.bin was sampled from the model itself, so that its loss is its entropy."""
        generator = torch.Generator().manual_seed(0)
        stored = content(n_head=4)
        stored["model"]["transformer.ln_f.weight"] *= 5  # a model that is sure of itself, as trained ones are
        write(tmp_path, stored)
        model = convert(read_checkpoint(tmp_path))
        text = torch.randint(65, (400, 1), generator=generator)
        with torch.no_grad():
            for _ in range(11):  # rows of twelve, so that windows begin where texts begin
                choice = torch.multinomial(model(text[:, -12:])[:, -1].softmax(-1), 1, generator=generator)
                text = torch.cat([text, choice], dim=1)
        tokens = text.flatten().numpy().astype(np.uint16)
        tokens.tofile(tmp_path / "val.bin")
        return tmp_path, tokens

    def by_hand(self, folder, tokens):
        model = convert(read_checkpoint(folder))
        starts = range(0, len(tokens) - 12, 12)
        losses = []
        with torch.no_grad():
            for s in starts:
                window = torch.tensor(tokens[s : s + 13].astype(np.int64))
                logits = model(window[None, :-1])[0]
                losses.append(torch.nn.functional.cross_entropy(logits, window[1:]).item())
        return float(np.mean(losses))

    def stated(self, folder, loss, **model_args):
        stored = torch.load(folder / "ckpt.pt", weights_only=True)
        stored["best_val_loss"] = torch.tensor(loss)
        stored["model_args"] |= model_args
        torch.save(stored, folder / "ckpt.pt")
        return check_equivalence(read_checkpoint(folder), edits=False)

    def test_it_is_the_mean_over_windows(self, run):
        folder, tokens = run
        loss = self.by_hand(folder, tokens)
        report = self.stated(folder, loss)
        (found,) = [c for c in report.comparisons if c.kind == "val_loss"]
        assert report.passed, str(report)
        assert found.max_abs < 1e-5
        assert f"{loss:.4f}" in found.detail

    def test_a_wrong_n_head_is_exposed(self, run):
        folder, tokens = run
        report = self.stated(folder, self.by_hand(folder, tokens), n_head=1)
        assert {c.kind for c in report.failures} == {"val_loss"}
        assert "n_head" in str(report.first_difference)

    def test_none_where_there_is_no_data_or_no_figure(self, run):
        folder, _ = run
        assert not [c for c in self.stated(folder, 1e9).comparisons if c.kind == "val_loss"]
        (folder / "val.bin").unlink()
        assert not [c for c in self.stated(folder, 4.0).comparisons if c.kind == "val_loss"]

    def test_none_of_one_window_or_of_weights_that_are_not_those_of_the_best_loss(self, run):
        folder, tokens = run
        loss = self.by_hand(folder, tokens)
        tokens[:20].tofile(folder / "val.bin")
        report = self.stated(folder, loss)
        assert not [c for c in report.comparisons if c.kind == "val_loss"]
        assert any("nothing speaks for n_head" in note for note in report.notes)
        tokens.tofile(folder / "val.bin")
        assert [c for c in self.stated(folder, loss).comparisons if c.kind == "val_loss"]
        stored = torch.load(folder / "ckpt.pt", weights_only=True)
        torch.save(stored | {"config": {"state": "resume"}}, folder / "ckpt.pt")  # as this package's trainer keeps it
        assert not [c for c in self.stated(folder, loss).comparisons if c.kind == "val_loss"]

    @pytest.mark.parametrize(
        ("tokens", "words"),
        [([70] * 100, "holds token 70, but the model has vocab_size 65"), ([1] * 12, "24 bytes")],
    )
    def test_data_that_does_not_fit(self, run, tokens, words):
        folder, _ = run
        np.array(tokens, dtype=np.uint16).tofile(folder / "val.bin")
        with pytest.raises(CheckpointError, match=words):
            check_equivalence(read_checkpoint(folder), edits=False)
        with pytest.raises(CheckpointError, match="nope.bin does not exist"):
            check_equivalence(read_checkpoint(folder), edits=False, val_bin=folder / "nope.bin")


class TestModelPy:
    """The user's own model.py as the native side."""

    @pytest.fixture
    def fork(self, tmp_path):
        shutil.copy(GOLDEN.parent / "fork_model.py", tmp_path / "model.py")
        return tmp_path / "model.py"

    def test_a_fork_proves_the_golden_cases(self, golden, fork):
        report = check_equivalence(golden.checkpoint, model_py=fork)
        assert report.passed, str(report)
        assert str(fork) in report.reference
        assert any("does not show" in note and "hook_pattern" in note for note in report.notes)
        edits = {c.name for c in report.comparisons if c.kind == "edit"}
        assert "zero at blocks.0.attn.hook_z" in edits
        assert "zero at blocks.0.hook_resid_mid" not in edits
        seen = {c.name for c in report.comparisons if c.kind == "activation"}
        assert {"blocks.0.hook_resid_mid", "blocks.1.attn.hook_k", "blocks.1.mlp.hook_post"} <= seen
        assert "blocks.0.attn.hook_pattern" not in seen

    @pytest.mark.parametrize(
        ("find", "put", "first"),
        [
            ("F.gelu(x)", "F.gelu(x, approximate='tanh')", "blocks.0.mlp.hook_post"),
            ("F.gelu(x)", "F.relu(x)", "blocks.0.mlp.hook_post"),
            ("q, k, v = ", "k, q, v = ", "blocks.0.attn.hook_z"),
            ("x = x + self.attn(self.ln_1(x))", "x = x + 0.5 * self.attn(self.ln_1(x))", "blocks.0.hook_resid_mid"),
        ],
    )
    def test_a_fork_that_computes_something_else_is_caught(self, fork, find, put, first):
        text = fork.read_text()
        assert find in text
        fork.write_text(text.replace(find, put))
        report = check_equivalence(read_checkpoint(GOLDEN / "bias"), model_py=fork, edits=False)
        assert report.first_difference is not None
        assert report.first_difference.name == first

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("", "no attribute 'GPT'"),
            ("def f(:", "SyntaxError"),
            ("raise RuntimeError('boom')", "boom"),
            ("import sys; sys.exit(0)", "SystemExit"),
            (None, "does not exist"),
        ],
    )
    def test_a_file_that_does_not_fit(self, fork, text, words):
        fork.unlink() if text is None else fork.write_text(text)
        with pytest.raises(CheckpointError, match=words) as caught:
            check_equivalence(read_checkpoint(GOLDEN / "bias"), model_py=fork)
        assert "model.py" in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_a_fork_with_other_layers(self, fork):
        fork.write_text(fork.read_text().replace("self.ln_2 = LayerNorm", "self.ln_3 = LayerNorm"))
        with pytest.raises(CheckpointError, match=r"ln_2"):
            check_equivalence(read_checkpoint(GOLDEN / "bias"), model_py=fork)

    @pytest.mark.parametrize(
        ("find", "put", "words"),
        [
            ("return logits, F", "return {'logits': logits}, F", r"model.py returned dict; expected \(logits, loss\)"),
            ("logits = self.lm_head(x)", "logits = self.lm_head(x)[:, :-1]", r"returned \[\d+, \d+, 65\]; expected"),
            (
                "for block in",
                "raise RuntimeError('no\\nluck')\n        for block in",
                "failed on tokens .RuntimeError: no luck",
            ),
        ],
    )
    def test_a_fork_that_fails_on_tokens(self, fork, find, put, words):
        text = fork.read_text()
        assert find in text
        text = text.replace(find, put)
        if "returned" in words:
            text = text.replace("F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1))", "None")
        fork.write_text(text)
        with pytest.raises(CheckpointError, match=words) as caught:
            check_equivalence(read_checkpoint(GOLDEN / "bias"), model_py=fork)
        assert "\n" not in str(caught.value)

    def test_a_fork_that_returns_logits_alone(self, fork):
        fork.write_text(fork.read_text().replace("return logits, F.cross_entropy", "return logits; F.cross_entropy"))
        assert check_equivalence(read_checkpoint(GOLDEN / "bias"), model_py=fork, edits=False).passed

    def test_a_file_that_is_no_python(self, fork):
        fork = fork.rename(fork.with_suffix(".txt"))
        with pytest.raises(CheckpointError, match=r"model.txt is not a Python file; expected the model.py"):
            check_equivalence(read_checkpoint(GOLDEN / "bias"), model_py=fork)

    def test_a_fork_whose_head_comes_first(self, fork):
        """Its tied weight then has the head's name among the parameters."""
        head = "        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)\n"
        text = fork.read_text()
        assert text.count(head) == 1
        start = "        self.transformer = nn.ModuleDict("
        fork.write_text(text.replace(head, "").replace(start, head + start))
        report = check_equivalence(read_checkpoint(GOLDEN / "bias"), model_py=fork, edits=False)
        assert report.passed, str(report)
        assert "transformer.wte.weight" in {c.name for c in report.comparisons if c.kind == "gradient"}

    def test_a_fork_that_computes_with_weights_alone(self, fork):
        """It never calls its module, at which nothing can be seen or edited then."""
        text = fork.read_text()
        assert "self.mlp(self.ln_2(x))" in text
        inside = "F.linear(F.gelu(F.linear(self.ln_2(x), m.c_fc.weight, m.c_fc.bias)), m.c_proj.weight, m.c_proj.bias)"
        fork.write_text(text.replace("return x + self.mlp(self.ln_2(x))", f"m = self.mlp\n        return x + {inside}"))
        report = check_equivalence(read_checkpoint(GOLDEN / "bias"), model_py=fork)
        assert report.passed, str(report)
        names = {c.name.rpartition(" at ")[2] for c in report.comparisons}
        assert not {name for name in names if name.endswith((".hook_mlp_out", ".mlp.hook_pre", ".mlp.hook_post"))}
        assert "blocks.1.hook_resid_post" in names
        assert any("does not show" in note and "hook_mlp_out" in note for note in report.notes)

    def test_an_edit_where_a_fork_has_no_module(self, fork):
        reference = ModelPyReference(fork, read_checkpoint(GOLDEN / "bias"), torch.float64)
        with pytest.raises(CheckpointError, match=r"blocks.0.attn.hook_pattern cannot be seen in .*model.py"):
            reference.logits(torch.zeros(1, 3, dtype=torch.long), {"blocks.0.attn.hook_pattern": torch.zeros_like})
