"""Several checkpoints side by side: their numbers, their order, those that cannot be read."""

import re

import pytest
import torch

import nanogpt_lens as ngl
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.reporting.making import report
from nanogpt_lens.reporting.sections.checkpoints import _log_spaced, checkpoints_of
from nanogpt_lens.text.corpus import windows
from tests.making import CHARS, content, write_meta
from tests.nanogpt_lens.reporting.report_helpers import read, section, small, text

pytestmark = pytest.mark.slow  # reports of several checkpoints


def stage(file, iteration, *, seed, stated=1.25, **sizes):
    """A checkpoint with other random weights."""
    what = content(**({"block_size": 16, "seed": seed} | sizes))
    what["iter_num"], what["best_val_loss"] = iteration, stated
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(what, file)
    return file


@pytest.fixture
def run(tmp_path):
    """Stages in another order than their names say, without a ckpt.pt."""
    folder = tmp_path / "out"
    stage(folder / "ckpt_2.pt", 20, seed=1, stated=2.5)
    stage(folder / "ckpt_1.pt", 100, seed=2)
    stage(folder / "ckpt_3.pt", 0, seed=3)
    write_meta(folder, CHARS)
    return folder


def test_a_folder_without_its_own_is_compared_alone(run):
    words = text(4000)
    found = report(run, corpus=words, progress=False)
    assert [s.key for s in found.sections] == ["summary", "checkpoints"]
    assert found.passed
    page = read(found.html)
    assert page.all(class_="status")[0].text == "PROVEN EQUAL: all 3 checkpoints"
    table, heads = section(page, "checkpoints").tables()
    assert [row[:2] for row in table[1:]] == [["ckpt_3.pt", "0"], ["ckpt_2.pt", "20"], ["ckpt_1.pt", "100"]]
    for row in table[1:]:
        model = ngl.load(run / row[0])
        tokens = windows(model, words, seq_len=16, n=256, seed=0)
        with torch.no_grad():
            loss = model(tokens, return_type="loss", loss_per_token=True).mean()
        assert row[4].split(" ")[0] == f"{float(loss):.3f}"
        assert row[2:4] == [f"{ngl.read_checkpoint(run / row[0]).n_params:,}", "2.500" if row[1] == "20" else "1.250"]
        assert row[5] == "proven"
    scores = ngl.score_heads(ngl.load(run / "ckpt_1.pt"), words, seq_len=16, n=32)
    assert heads[0][-1] == "induction heads"
    for name, cell in zip(heads[0][1:-1], heads[3][1:-1], strict=True):
        value, layer, head = re.fullmatch(r"(−?\d\.\d\d) \((\d)\.(\d)\)", cell).groups()
        own = scores.score(name.replace(" ", "_"))
        assert float(value.replace("−", "-")) == pytest.approx(float(own.max()), abs=0.006)
        assert own[int(layer), int(head)] == own.max()


def test_the_loss_over_training_is_drawn_in_order(run):
    found = report(run, corpus=text(4000), progress=False)
    page = read(found.html)
    data = [s.text for s in page.all("script") if s.attributes.get("data-ngl-data")]
    assert len(data) == 3  # one of them on the first screen
    figures = section(page, "checkpoints").all("figure")
    assert [f.attributes["aria-label"] for f in figures] == [
        "the loss over training",
        "the highest head scores over training",
    ]


@pytest.mark.slow
def test_stages_beside_a_ckpt_make_a_full_report_and_a_section(run):
    small(run)
    found = report(run, corpus=text(4000), sections=["summary", "loss", "checkpoints"], progress=False)
    assert [(s.key, s.status) for s in found.sections] == [
        ("summary", "done"),
        ("loss", "done"),
        ("checkpoints", "done"),
    ]
    assert len(section(read(found.html), "checkpoints").tables()[0]) == 5
    assert "checkpoints" in [s.key for s in report(run, corpus=text(500), progress=False).sections]


def test_folders_of_folders(tmp_path):
    for name, iteration in (("b", 5), ("a", 50)):
        stage(tmp_path / "runs" / name / "ckpt.pt", iteration, seed=iteration)
        write_meta(tmp_path / "runs" / name, CHARS)
    assert [str(p.relative_to(tmp_path)) for p in checkpoints_of(tmp_path / "runs")] == [
        "runs/a/ckpt.pt",
        "runs/b/ckpt.pt",
    ]
    table = section(read(report(tmp_path / "runs", corpus=text(2000), progress=False).html), "checkpoints").tables()[0]
    assert [row[0] for row in table[1:]] == ["b/ckpt.pt", "a/ckpt.pt"]


def test_one_that_cannot_be_read_says_so_in_its_row_and_nothing_is_proven(run):
    (run / "ckpt_9.pt").write_bytes(b"no checkpoint")
    found = report(run, corpus=text(2000), progress=False)
    assert found.passed is False
    page = read(found.html)
    status = page.all(class_="status")[0]
    assert status.text == "NOT PROVEN: 3 of 4 checkpoints proven, 1 cannot be read (ckpt_9.pt)"
    (warning,) = found.sections[1].warnings
    assert warning.startswith("ckpt_9.pt cannot be read: ckpt_9.pt is not a PyTorch checkpoint")
    assert status.attributes["data-tone"] == "bad"
    row = section(page, "checkpoints").tables()[0][-1]
    assert row[0] == "ckpt_9.pt"
    assert row[4] == "–"
    assert row[5].startswith("cannot be read: ckpt_9.pt is not a PyTorch checkpoint")
    assert str(run) not in found.html


def test_without_a_text_all_are_measured_on_that_of_the_last(run):
    page = read(report(run, progress=False).html)
    table = section(page, "checkpoints").tables()[0]
    losses = [float(row[4].split(" ")[0]) for row in table[1:]]
    assert losses[-1] == min(losses)
    assert "text drawn from the last of them" in section(page, "checkpoints").text


def test_one_checkpoint_alone_is_no_comparison_and_several_are_not_one(tmp_path, run):
    with pytest.raises(AnalysisError, match="is one checkpoint; expected a folder with several"):
        report(small(tmp_path / "single"), sections=["checkpoints"], progress=False)
    with pytest.raises(AnalysisError, match="the section heads is about one checkpoint, but .* holds several"):
        report(run, sections=["summary", "heads"], progress=False)


def test_other_architectures_are_no_training_run(run):
    stage(run / "ckpt_4.pt", 200, seed=4, n_layer=1)
    part = section(read(report(run, corpus=text(4000), progress=False).html), "checkpoints")
    assert "they differ in architecture, so that they are not taken for stages" in part.text
    assert "In the order of training" not in part.text
    assert not part.all("figure")


def test_the_same_weights_are_counted_once(run):
    what = torch.load(run / "ckpt_1.pt", weights_only=True)
    what["optimizer"] = {"state": {}}
    torch.save(what, run / "ckpt_8.pt")
    found = report(run, corpus=text(4000), progress=False)
    table, heads = section(read(found.html), "checkpoints").tables()
    assert [row[0] for row in table[3:]] == ["ckpt_1.pt", "ckpt_8.pt (the same weights as ckpt_1.pt)"]
    assert len(heads) == 4
    assert "In the order of training." in found.html


@pytest.mark.parametrize(
    ("steps", "logarithmic"),
    [
        ([0, 250, 500, 750, 1000], False),
        ([0, 1, 2, 4, 8, 16, 32], True),
        ([0, 10, 20], False),
        ([0, 10, 100, 1000], True),
    ],
)
def test_which_stages_are_spaced_as_logarithms(steps, logarithmic):
    assert _log_spaced(steps) is logarithmic


def losses_in(table):
    """The losses measured, by file; "–" for none."""
    return {row[0]: row[4].split(" ")[0] for row in table[1:]}


def test_many_are_thinned_out_and_the_verdict_says_how_many_were_looked_at(run, monkeypatch):
    monkeypatch.setattr("nanogpt_lens.reporting.sections.checkpoints._MOST", 2)
    found = report(run, corpus=text(2000), progress=False)
    page = read(found.html)
    assert list(losses_in(section(page, "checkpoints").tables()[0])) == ["ckpt_3.pt", "ckpt_1.pt"]
    assert "2 of 3 checkpoints, evenly spaced." in section(page, "checkpoints").text
    assert page.all(class_="status")[0].text == "PROVEN EQUAL: all 2 checkpoints that were looked at, of 3"


def test_without_a_text_the_last_that_can_be_read_gives_it(run):
    before = losses_in(section(read(report(run, progress=False).html), "checkpoints").tables()[0])
    (run / "ckpt_9.pt").write_bytes(b"no checkpoint")
    after = losses_in(section(read(report(run, progress=False).html), "checkpoints").tables()[0])
    assert after == before | {"ckpt_9.pt": "–"}


def test_where_none_can_be_read_nothing_is_measured_or_proven(tmp_path):
    for name in ("ckpt_1.pt", "ckpt_2.pt"):
        (tmp_path / name).write_bytes(b"no checkpoint")
    found = report(tmp_path, progress=False)
    page = read(found.html)
    assert found.passed is False
    status = page.all(class_="status")[0].text
    assert status == "NOT PROVEN: 0 of 2 checkpoints proven, 2 cannot be read (ckpt_1.pt, ckpt_2.pt)"
    part = section(page, "checkpoints")
    assert len(part.tables()) == 1
    assert "In the order of their iterations." in part.text
    assert found.sections[-1].findings == ()


def test_another_vocabulary_is_proven_and_its_loss_is_not_compared(run):
    stage(run / "ckpt_0.pt", 5, seed=4, vocab_size=30)
    found = report(run, progress=False)
    table = section(read(found.html), "checkpoints").tables()[0]
    row = next(row for row in table if row[0] == "ckpt_0.pt")
    assert row[4] == "it has another vocabulary than the checkpoint whose text all are measured on"
    assert row[5] == "proven"
    assert found.passed
    assert found.sections[-1].findings[0].startswith("Over 3 of 4 checkpoints (1 without a loss) the loss ")


def test_contexts_too_short_for_the_scores_of_heads(tmp_path):
    for step in (1, 2):
        stage(tmp_path / f"ckpt_{step}.pt", step, seed=step, block_size=3)
    write_meta(tmp_path, CHARS)
    part = section(read(report(tmp_path, corpus=text(2000), progress=False).html), "checkpoints")
    assert [figure.attributes["aria-label"] for figure in part.all("figure")] == ["the loss over training"]
    assert len(part.tables()) == 1
    model = ngl.load(tmp_path / "ckpt_1.pt")
    loss = float(ngl.text_loss(model, text(2000), seq_len=3, n=256).values)
    assert losses_in(part.tables()[0])["ckpt_1.pt"] == f"{loss:.3f}"


def test_losses_that_cannot_be_told_apart_are_said_to_be_so(tmp_path):
    first = stage(tmp_path / "ckpt_1.pt", 1, seed=1)
    what = torch.load(first, weights_only=True)
    what["iter_num"] = 2
    what["model"]["transformer.h.0.mlp.c_proj.bias"] += 1e-6
    torch.save(what, tmp_path / "ckpt_2.pt")
    write_meta(tmp_path, CHARS)
    finding = report(tmp_path, corpus=text(2000), progress=False).sections[-1].findings[0]
    loss = float(ngl.text_loss(ngl.load(first), text(2000), seq_len=16, n=256).values)
    assert finding == (f"The losses of 2 checkpoints cannot be told apart; the least is {loss:.3f} nats per token.")
