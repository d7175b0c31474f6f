"""What the report says is true of this checkpoint and this text: nothing is claimed that was not measured."""

import hashlib

import pytest
import torch

import nanogpt_lens as ngl
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.reporting.making import report
from nanogpt_lens.text.corpus import windows
from tests.nanogpt_lens.reporting.report_helpers import read, section, small, text


def nice(value, digits=3):
    return f"{float(value):.{digits}f}".replace("-", "−")


def test_a_model_in_place_of_a_path_is_one_sentence():
    with pytest.raises(AnalysisError, match=r"^a \w+ was given; expected the path of a checkpoint"):
        report(ngl.load("handmade_induction"), progress=False)


def test_ids_are_a_pair_too(tmp_path):
    folder = small(tmp_path / "out", vocabulary=False)
    model = ngl.load(folder)
    clean, corrupted = [1, 2, 3, 4], [1, 5, 3, 6]
    given = {"clean": clean, "corrupted": corrupted, "answer": 7, "wrong": 8}
    found = report(folder, sections=["patching"], progress=False, **given)
    said = section(read(found.html), "patching").all("figcaption")[0].text
    with torch.no_grad():
        last = [model(torch.tensor([row]))[0, -1] for row in (clean, corrupted)]
    assert said.startswith("They differ at 2 of 4 positions: 1 and 3.")
    differences = [nice(row[7] - row[8], 2) for row in last]
    assert f"is {differences[0]} logits above “8”, after the corrupted one {differences[1]}." in said
    with pytest.raises(AnalysisError, match="--answer is 999; expected an id from 0 to"):
        report(folder, progress=False, **(given | {"answer": 999}))


def test_the_text_of_the_run_is_known_by_its_hash(tmp_path):
    folder, file = small(tmp_path / "out"), tmp_path / "words.txt"
    file.write_text(text(6000))
    what = torch.load(folder / "ckpt.pt", weights_only=False)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    what["config"] = {"text_sha256": digest, "train_tokens": 5400, "val_tokens": 600}
    torch.save(what, folder / "ckpt.pt")
    found = report(folder, corpus=file, sections=["loss"], progress=False)
    part = section(read(found.html), "loss")
    held = windows(ngl.load(folder), file.read_text()[5400:], seq_len=16, n=4096, seed=0)
    with torch.no_grad():
        loss = ngl.load(folder)(held, return_type="loss", loss_per_token=True).double().mean()
    assert part.tables()[0][2][0] == "this model on the validation part of it"
    assert part.tables()[0][2][1].split(" ")[0] == nice(loss)
    assert "the first 90% of it, 5,400 tokens, is training text" in part.text
    assert found.sections[0].findings[0].startswith(f"On text that it was not trained on, it pays {float(loss):.1f}")
    what["config"]["text_sha256"] = digest[::-1]
    torch.save(what, folder / "ckpt.pt")
    other = section(read(report(folder, corpus=file, sections=["loss"], progress=False).html), "loss").text
    assert "nothing in the checkpoint says whether this is such text" in other
    assert "this model on the validation part" not in other


def test_neurons_that_are_never_active_are_not_listed(tmp_path):
    folder = small(tmp_path / "out")
    what = torch.load(folder / "ckpt.pt", weights_only=False)
    for name, weight in what["model"].items():
        if "c_fc" in name:
            weight.fill_(-3.0 if name.endswith("bias") else 0.0)
    torch.save(what, folder / "ckpt.pt")
    found = report(folder, corpus=text(3000), sections=["neurons"], progress=False)
    assert found.sections[0].status == "done"
    assert "No neuron is ever clearly active: the highest activation of any is" in found.html
    assert not read(found.html).all("details", class_="neuron")
    assert "best separate" not in section(read(found.html), "neurons").text


def test_the_table_of_the_certificate_shows_what_was_judged():
    found = report("handmade_induction", sections=["certificate"], progress=False)
    expected = ngl.check("handmade_induction")
    for row in section(read(found.html), "certificate").tables()[0][1:]:
        if row[0].startswith("greedy"):
            continue
        for cell in row[2:4]:
            error, allowed = map(float, cell.split(" / "))
            assert error <= allowed
    edits = [c for c in expected.comparisons if c.kind == "edit" and c.precision == "float32"]
    nearest = max(edits, key=lambda c: c.max_rel / c.tolerance)
    assert f"{nearest.max_rel:.1e} / {nearest.tolerance:.1e}" in found.html
