"""The report's content: its numbers are those of the analyses called by hand, and it is a sound page."""

import hashlib
import math
import re

import pytest
import torch

import nanogpt_lens as ngl
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.reporting.making import RECIPES, SECTIONS, report
from nanogpt_lens.text.corpus import windows
from nanogpt_lens.text.datasets import shakespeare
from tests.nanogpt_lens.reporting.report_helpers import read, section, small, text


def nice(value, digits=3):
    return f"{float(value):.{digits}f}".replace("-", "−")


def between(value, low, high, digits=3):
    return f"{nice(value, digits)} ({nice(low, digits)} to {nice(high, digits)})"


@pytest.fixture(scope="module")
def plays(tmp_path_factory):
    file = tmp_path_factory.mktemp("data") / "plays.txt"
    file.write_text(shakespeare().encode("ascii", "ignore").decode()[20_000:28_000], encoding="utf-8")
    known = set("\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
    file.write_text("".join(c for c in file.read_text() if c in known))
    return file


@pytest.fixture(scope="module")
def certificates():
    """What `ngl.check` returned while the shipped model's report was made."""
    return []


@pytest.fixture(scope="module")
def shipped(plays, certificates):
    """The shipped model's report, made once."""

    def check(*args, **options):
        certificates.append(ngl.check(*args, **options))
        return certificates[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nanogpt_lens.reporting.sections.certificate.check", check)
        return report("shakespeare_char", corpus=plays, progress=False, seed=0)


@pytest.fixture(scope="module")
def page(shipped):
    return read(shipped.html)


@pytest.fixture(scope="module")
def model():
    return ngl.load("shakespeare_char")


@pytest.mark.slow
def test_every_section_is_made_with_its_four_parts(shipped, page):
    assert [(s.key, s.status, s.error) for s in shipped.sections] == [
        (key, "done", "") for key in SECTIONS if key not in ("checkpoints", "scrubbing")
    ]
    last = section(page, "again")
    for made in shipped.sections[1:]:
        part = section(page, made.key)
        assert part.all("h2")[0].text.startswith(made.title)
        (reading,) = part.all("p", class_="reading")
        assert len(re.findall(r"[.](?:\s|$)", reading.text)) == 2  # two sentences
        (again,) = last.all("div", id=f"again-{made.key}")
        assert [code.text for code in again.all("code")] == list(made.commands)
        assert made.commands
        assert len(part.text) > len(reading.text) + 400


@pytest.mark.slow
def test_the_status_line_is_the_verdict(shipped, certificates, page):
    (status,) = page.all(class_="status")
    assert shipped.passed is True
    (expected,) = certificates
    assert expected.passed
    assert re.fullmatch(r"proven equal to nanoGPT: \d+ comparisons, largest error \de-\d+", status.text)
    assert f" {len(expected.comparisons)} comparisons" in status.text
    assert status.attributes["data-tone"] == "good"
    (unfolded,) = page.all("details", class_="proof-frame")
    assert unfolded.tables() == section(page, "certificate").tables()[:1]
    assert any(comparison.kind == "edit" for comparison in expected.comparisons)
    whole = section(page, "certificate").tables()[1]
    assert len(whole) == 1 + len(expected.rows())
    assert [row[:2] for row in whole[1:]] == [[quantity, mode] for quantity, mode, _ in expected.rows()]
    by_kind = section(page, "certificate").tables()[0]
    assert sum(int(row[1].replace(",", "")) for row in by_kind[1:]) == len(expected.comparisons)


@pytest.mark.slow
def test_the_loss_is_the_models_own_on_these_windows(page, plays, model):
    tokens = windows(model, plays, seq_len=64, n=1024, seed=0)
    with torch.no_grad():
        logits = torch.cat([model(rows, return_type="logits") for rows in tokens.split(64)]).double()
    loss = -logits[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0]
    table = section(page, "loss").tables()[0]
    assert table[1][1].split(" ")[0] == nice(loss.mean())
    assert table[1][2] == nice(math.exp(loss.mean()), 2)
    assert table[1][3] == nice(loss.mean() / math.log(2), 2)  # a token is a character
    content = plays.read_text()
    counts = {c: content.count(c) / len(content) for c in set(content)}
    names = [model.tokenizer.decode([i]) for i in range(65)]
    guess = [-math.log(counts[names[t]]) for t in tokens[:, 1:].flatten().tolist()]
    assert table[2][1] == nice(sum(guess) / len(guess))
    assert table[3][1] == nice(math.log(65))
    parts = section(page, "loss").tables()[1]
    assert [float(c) for c in parts[1][1:]] == pytest.approx(
        [float(loss[:, i * 63 // 4 : (i + 1) * 63 // 4].mean()) for i in range(4)], abs=6e-4
    )


@pytest.mark.slow
def test_the_coloured_passage_is_text_and_names_its_losses(page, plays, model):
    (passage,) = section(page, "loss").all("div", class_="passage")
    shown = passage.text.replace("↵\n", "\n").replace("·", " ")
    assert shown in plays.read_text()
    assert len(shown) == 64
    spans = passage.all("i")
    tokens = model.to_tokens(shown)
    with torch.no_grad():
        expected = model(tokens, return_type="loss", loss_per_token=True)[0]
    assert [float(s.attributes["title"].split(" ")[0]) for s in spans[1:]] == pytest.approx(expected.tolist(), abs=6e-4)
    darkest = max(range(63), key=lambda i: expected[i])
    level = re.search(r"p(\d)", spans[darkest + 1].attributes["class"])
    assert level is not None
    assert int(level[1]) == round(8 * min(1.0, float(expected[darkest]) / math.log(65)))


@pytest.mark.slow
def test_the_samples_are_what_generate_gives(page, model):
    written = [pre.text for pre in section(page, "loss").all("pre")]
    for i, sample in enumerate(written):
        assert "\n" + sample == ngl.generate(model, "\n", max_new_tokens=200, seed=1337 + i)
    assert len(written) == 2


@pytest.mark.slow
def test_head_scores_are_those_of_the_taxonomy(page, plays, model):
    taxonomy = ngl.head_taxonomy(model, plays, n=64, seq_len=64)
    importance = ngl.head_importance(model, plays, n=32, seq_len=64, progress=False)
    _, table = section(page, "heads").tables()
    names = taxonomy.labels["score"]
    assert table[0][1 : 1 + len(names)] == [name.replace("_", " ") for name in names]
    for layer in range(4):
        for head in range(4):
            row = table[1 + 4 * layer + head]
            assert row[0] == f"{layer}.{head}"
            assert row[1 : 1 + len(names)] == [nice(v, 2) for v in taxonomy.values[:, layer, head]]
            rise = importance.values[layer, head], importance.low[layer, head], importance.high[layer, head]
            assert row[1 + len(names)] == between(*rise, digits=4)
            assert row[-2].split(", ")[0].split(" and ")[0] == (taxonomy.of(layer, head) or ("none",))[0].replace(
                "_", " "
            )


@pytest.mark.slow
def test_induction_numbers_and_the_honest_negative(shipped, page, model):
    matching = ngl.prefix_matching(model, n=32)
    accuracy = ngl.induction_accuracy(model, n=128)
    losses = ngl.repeated_sequence_loss(model, n=32)
    evidence, heads, answers, table = section(page, "induction").tables()
    assert evidence[1][1] == f"{100 * float(matching.values.max()):.1f}%"
    assert evidence[2][1:3] == [f"{100 * float(v):.1f}%".replace("0.0%", "0%") for v in accuracy.values[0]]
    best = int(matching.values.argmax())
    assert heads[1][:2] == [
        f"{best // 4}.{best % 4}",
        between(matching.values.max(), matching.low.flatten()[best], matching.high.flatten()[best]),
    ]
    assert answers[1][1] == between(accuracy.values[0, 0], accuracy.low[0, 0], accuracy.high[0, 0])
    assert answers[2][1] == between(accuracy.values[0, 1], accuracy.low[0, 1], accuracy.high[0, 1])
    second = [losses.at(condition=c)[33 - 1 :].mean() for c in ("repeated", "shuffled", "unrepeated")]
    assert table[1][1:4] == [nice(v) for v in second]
    (made,) = [s for s in shipped.sections if s.key == "induction"]
    none = f"It has no induction head: the best one, head {best // 4}.{best % 4}, "
    assert made.findings[0] == f"{none}looks at the right place no more than chance does."
    assert float(matching.values.max()) < float(matching.chance[0, 0]) + 0.005


def test_a_model_that_does_induction_is_said_to():
    found = report("handmade_induction", sections=["induction"], progress=False).sections[0]
    assert found.findings[0].startswith("It does induction: head 1.0 gives 100% of its attention to")


@pytest.mark.slow
def test_lens_and_attribution_are_those_of_the_analyses(page, plays, model):
    found = ngl.measure_convergence(model, plays, n=64, seq_len=64, progress=False)
    lens, convergence, parts = section(page, "lens").tables()
    passage = "".join(cell.split(" ", 1)[1] for cell in lens[0][1:]).replace("·", " ").replace("↵", "\n")
    tops = ngl.logit_lens(model, passage).top_strings()[-1, -1, :, 0]
    assert [cell.replace("·", " ").replace("↵", "\n") for cell in lens[1][1:]] == tops.tolist()
    assert lens[1][0] == "3.resid_post"
    assert [row[0] for row in convergence[1:-1]] == [name for _, _, name in found.in_depth_order()]
    assert convergence[2][1] == between(found.values[0, 0, 1], found.low[0, 0, 1], found.high[0, 0, 1], digits=2)
    assert convergence[-1][1] == nice(found.chance[0, 0, 0], 2)
    asked = section(page, "lens").text
    prompt, answer, wrong = re.search(
        r"After “(.+?)” the model gives “(.)”.*? adds to the lead of “.” over “(.)”", asked
    ).groups()
    prompt, answer, wrong = (s.replace("·", " ").replace("↵", "\n") for s in (prompt, answer, wrong))
    total = ngl.direct_logit_attribution(model, prompt, answer, wrong)
    assert parts[-1] == ["all components together", nice(total.total[-1])]
    largest = total.top(1).iloc[0]
    assert parts[1] == [largest["component_label"], nice(largest["value"])]
    assert prompt + answer in plays.read_text()


@pytest.mark.slow
def test_patching_is_exact(page, plays, model):
    pair = ngl.find_prompt_pair(model, plays)
    metric = ngl.metrics.logit_diff(pair.answer, pair.wrong)
    heads = ngl.activation_patching(
        model, pair.clean, pair.corrupted, metric, activation="z", axes=("layer", "head", "pos"), progress=False
    )
    sites, pairs = section(page, "patching").tables()
    best = heads.top(1).iloc[0]
    assert sites[1][:2] == ["head", f"{best['layer']:.0f}.{best['head']:.0f}"]
    assert sites[1][3:] == [nice(best["value"], 2), f"{100 * best['recovery']:.0f}%"]
    assert pairs[1][5:] == [nice(pair.clean_logit_diff, 2), nice(pair.corrupted_logit_diff, 2)]
    assert 2 <= len(pairs) - 1 <= 8


@pytest.mark.slow
def test_neurons_are_those_of_the_search(page, plays, model):
    found = ngl.search_neurons(model, plays, k=6, window=32, progress=False)
    cards = section(page, "neurons").all("details", class_="neuron")
    assert len(cards) >= 12
    for card in cards[:8]:
        layer, neuron = map(int, card.attributes["id"].removeprefix("neuron-").split("."))
        expected = found.page(layer, neuron)
        high, low = card.all("ol")
        assert [b.text for b in high.all("b")] == [nice(e.value, 2) for e in expected.highest]
        shown = [span.text.replace("↵", "\n") for span in high.all("span", class_="tokens")]
        assert shown == [e.text for e in expected.highest]
        assert [b.text for b in low.all("b")] == [nice(e.value, 2) for e in expected.lowest[:2]]
        peaks = [li.all("i", class_="peak")[0].text.replace("↵", "\n") for li in high.all("li")]
        assert peaks == [e.token for e in expected.highest]
        facts = dict(zip([d.text for d in card.all("dt")], [d.text for d in card.all("dd")], strict=True))
        assert facts["mean"] == nice(expected.mean)
        assert facts["not above 0"] == f"{100 * expected.sparsity:.1f}%"


@pytest.mark.slow
def test_every_section_opens_with_its_finding(shipped, page):
    for made in shipped.sections[1:]:
        said = [p.text for p in section(page, made.key).all("p", class_="say")]
        assert said == list(made.findings[:1])
    assert len(section(page, "summary").all("p", class_="s")) == 3
    assert hashlib.sha256((ngl.read_checkpoint("checkpoints/shakespeare_char").path).read_bytes()).hexdigest() in (
        section(page, "again").text
    )


@pytest.mark.slow
def test_the_page_is_sound_and_small(shipped, page):
    inside = sum(len(s.text) for s in page.all("script") if "data-lab" in s.attributes)  # the lab's model
    assert len(shipped.html.encode()) - inside < 5_000_000
    assert len(shipped.html.encode()) < 8_000_000
    ids = [e.attributes["id"] for e in page.all() if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    targets = [a.attributes["href"] for a in page.all("a")]
    assert all(t.startswith("#") and t[1:] in ids for t in targets)
    contents = page.all("nav", class_="toc")[0].all("a")
    assert [a.text for a in contents] == [*(s.title for s in shipped.sections), "Make it again"]
    assert page.all("html")[0].attributes["lang"] == "en"
    assert page.all("noscript")
    for figure in page.all("figure"):
        assert figure.all("figcaption")[0].text.strip()
    assert not [e for e in page.all() for name in e.attributes if name.startswith("on")]


@pytest.mark.slow
def test_the_same_input_gives_the_same_bytes_wherever_it_is(tmp_path):
    pages = []
    for place in ("here", "there"):
        folder = small(tmp_path / place / "out")
        file = tmp_path / place / "words.txt"
        file.write_text(text(3000))
        pages.append(report(folder, corpus=file, progress=False).html)
        assert str(tmp_path) not in pages[-1]
    assert pages[0] == pages[1]


def test_a_section_that_fails_says_so_in_its_place(tmp_path, monkeypatch):
    def broken(subject):
        raise RuntimeError("<b>no</b> luck\nat all")

    recipe = RECIPES["heads"]
    monkeypatch.setitem(RECIPES, "heads", type(recipe)(key="heads", title="Heads", reading="One. Two.", make=broken))
    found = report(small(tmp_path / "out"), corpus=text(3000), sections=["heads", "loss", "summary"], progress=False)
    assert [(s.key, s.status) for s in found.sections] == [("summary", "done"), ("loss", "done"), ("heads", "failed")]
    page = read(found.html)
    said = section(page, "heads").all("p", class_="bad")[0].text
    assert said == (
        "This section failed: this should not have happened (RuntimeError: <b>no</b> luck); please report it"
    )
    assert not section(page, "heads").all("b")
    assert section(page, "loss").tables()
    assert [s.key for s in found.failed] == ["heads"]


def test_without_a_text_a_vocabulary_or_a_second_layer(tmp_path):
    folder = small(tmp_path / "out", vocabulary=False, n_layer=1)
    found = report(
        folder,
        sections=[key for key in SECTIONS if key not in ("certificate", "checkpoints", "scrubbing")],
        progress=False,
    )
    said = {s.key: s for s in found.sections}
    assert not found.failed
    if said["patching"].status == "does not apply":  # random weights may never be right
        assert said["patching"].error.endswith("ngl.report('out', clean=[...], corrupted=[...]).")
        assert "n=" not in said["patching"].error
    page = read(found.html)
    assert "one layer cannot compose" in section(page, "induction").text
    assert "the model's own text" in section(page, "loss").text
    assert "none (no file was found): tokens are shown as ids" in section(page, "again").text
    (passage,) = section(page, "loss").all("div", class_="passage")
    assert all(token.isdigit() for token in passage.text.split())


def test_a_short_text_is_enough(tmp_path):
    found = report(small(tmp_path / "out"), corpus="the king is my lord\nO night", progress=False)
    assert not found.failed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sections": ["heads", "nothing"]}, "there is no section 'nothing'; expected some of summary, certificate"),
        ({"sections": []}, "no section is chosen"),
        ({"clean": "the king"}, "only the clean prompt was given; expected clean and corrupted, or neither"),
        ({"corrupted": "the king"}, "only the corrupted prompt was given"),
        ({"answer": "a"}, "an answer was given without prompts"),
        ({"clean": "the", "corrupted": "them"}, "the clean text has 3 tokens, the corrupted one 4"),
        ({"clean": "the", "corrupted": "tha", "answer": "ab"}, "--answer 'ab' is 2 tokens"),
        ({"clean": "the", "corrupted": "tha", "answer": "a", "wrong": "a"}, "both 'a'"),
        ({"clean": "the", "corrupted": "th¥"}, "¥"),
        ({"corpus": "the ¥ king and the night"}, "¥"),
        ({"corpus": "short"}, "the text has 5 tokens; expected at least 8"),
        ({"output": "{tmp}"}, "is a folder; expected the name of a file"),
        ({"output": "{tmp}/out/ckpt.pt"}, "ckpt.pt does not end in .html or .htm"),
        ({"output": "{tmp}/report.txt"}, "report.txt does not end in .html or .htm"),
        ({"clean": "the", "corrupted": "the"}, "the clean and the corrupted text are the same"),
        ({"clean": [1, 2], "corrupted": [1, 2]}, "the clean and the corrupted text are the same"),
        ({"clean": "the", "corrupted": "tha", "sections": ["loss"]}, "but the section patching, which alone uses them"),
        ({"sections": ["loss", "checkpoints"]}, "out is one checkpoint; expected a folder with several"),
        ({"output": "{tmp}/out/ckpt.pt/report.html"}, "cannot be written"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_bad_input_is_one_sentence_before_the_work(tmp_path, options, message):
    folder = small(tmp_path / "out")
    given = {k: v.format(tmp=tmp_path) if k == "output" else v for k, v in options.items()}
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        report(folder, progress=False, **({"corpus": text(500)} | given))
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_your_own_pair_is_shown_first(tmp_path):
    folder = small(tmp_path / "out")
    model = ngl.load(folder)
    given = {"clean": "the king", "corrupted": "the kigg", "answer": "a", "wrong": "b"}
    page = read(report(folder, corpus=text(3000), sections=["patching"], progress=False, **given).html)
    part = section(page, "patching")
    assert part.all("h3")[0].text == "Your own pair"
    patched = ngl.activation_patching(
        model,
        "the king",
        "the kigg",
        ngl.metrics.logit_diff("a", "b"),
        activation="resid_pre",
        axes=("layer", "pos"),
        progress=False,
    )
    said = part.all("figcaption")[0].text
    assert said.startswith("They differ at 1 of 8 positions: 6.")
    assert (
        f"is {nice(patched.clean, 2)} logits above “b”, after the corrupted one {nice(patched.corrupted, 2)}." in said
    )
    assert "SHA-256" not in section(page, "again").text  # which the summary has, and it is not here
    assert section(page, "again").all("code")[0].text == (
        "nanogpt-lens patch out --clean 'the king' --corrupted 'the kigg' --answer a --wrong b"
    )


def test_it_stays_a_function():
    """A module of the same name would take its place in the package."""
    assert callable(ngl.report)
    report("handmade_induction", sections=["summary"], progress=False)
    assert callable(ngl.report)
    assert ngl.report is report


def test_saving_replaces_in_one_step(tmp_path):
    found = report("handmade_induction", sections=["summary"], progress=False)
    file = found.save(tmp_path / "new" / "page.html")
    assert file.read_text(encoding="utf-8") == found.html
    assert [p.name for p in file.parent.iterdir()] == ["page.html"]
    (tmp_path / "file").write_text("")
    with pytest.raises(AnalysisError, match="cannot be written"):
        found.save(tmp_path / "file" / "page.html")
