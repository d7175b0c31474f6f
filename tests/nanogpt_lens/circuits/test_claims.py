"""Hypotheses in files: what they hold, and what is refused."""

from __future__ import annotations

import json

import pytest

from nanogpt_lens.circuits.claims import read_hypothesis
from nanogpt_lens.core.errors import AnalysisError

TEXT = """
name: an induction head
positions: same
classes: {vowel: aeiou}
logits:
  reads:
    "1.0":
      depends_on: [token, followed_earlier]
      reads:
        q: {depends_on: token}
        k: {depends_on: previous_token, at: all}
    embed:
"""


def test_a_file_is_what_it_says(tmp_path):
    file = tmp_path / "hypothesis.yaml"
    file.write_text(TEXT)
    read = read_hypothesis(file)
    assert (read.name, read.positions, read.classes) == ("an induction head", "same", {"vowel": tuple("aeiou")})
    assert read.claim("logits/1.0").depends_on == ("token", "followed_earlier")
    assert read.claim("logits/1.0/k@all").depends_on == "previous_token"
    assert read.claim("logits/embed").reads is None
    again = tmp_path / "again.json"
    again.write_text(json.dumps(read.to_json()))
    assert read_hypothesis(str(again)) == read
    assert read_hypothesis(read) is read


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("logits: [", "is no YAML"),
        ("logits: !!python/object/apply:os.system ['true']", "is no YAML"),
        ("- 1", "is no hypothesis"),
        ("logits: {reads: {1.10: {}}}", "reads the node 1.1; expected a name; write it in quotes"),
        ("a: &a {reads: {x: *a}}\nlogits: *a", "has the key 'a'"),
        ("logits: &a {reads: {x: *a}}", "claims 64 deep"),
        ("name: 3\nlogits: {}", "name is 3; expected words"),
        ("classes: {vowel: [1]}\nlogits: {}", "the class 'vowel' is [1]; expected tokens as text"),
        ("classes: [a]\nlogits: {}", "classes is ['a']"),
        ("logits: {depends_on: [1]}", "'logits' depends on [1]; expected the name of a feature"),
        ("logits: {reads: {k: {at: -1}}}", "is at -1; expected each, all, here, or a position"),
        ("logits: {reads: [k]}", "reads 'k'; expected a claim with its node"),
        ('logits: {reads: {"1.0": {depends_on: nothing}, "1.0": {}}}', "the key '1.0' is there twice"),
        ("logits: {}\nlogits: {}", "the key 'logits' is there twice"),
    ],
)
def test_what_is_no_hypothesis_is_refused(tmp_path, text, message):
    file = tmp_path / "hypothesis.yaml"
    file.write_text(text)
    with pytest.raises(AnalysisError) as error:
        read_hypothesis(file)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_aliases_that_grow_without_end_are_refused(tmp_path):
    text = "logits:\n  reads:\n    x: &a0 {reads: {y: {}, z: {}}}\n"
    text += "".join(f"    x{i}: &a{i} {{reads: {{y: *a{i - 1}, z: *a{i - 1}}}}}\n" for i in range(1, 20))
    file = tmp_path / "many.yaml"
    file.write_text(text)
    with pytest.raises(AnalysisError, match="has more than 2,000 claims"):
        read_hypothesis(file)
    with pytest.raises(AnalysisError, match="there is no file"):
        read_hypothesis("logits: {reads: {embed: {}}}  # the text itself " * 40)
    with pytest.raises(AnalysisError, match="there is no file"):
        read_hypothesis(tmp_path / "none.yaml")
    (tmp_path / "large.yaml").write_text("#" * (2**20 + 1))
    with pytest.raises(AnalysisError, match="1,048,577 bytes"):
        read_hypothesis(tmp_path / "large.yaml")
