"""What a reader of intervals has to know: that they are of few examples, or of what something was fitted or chosen on.

Every table and sentence of the report that shows intervals ends with this; pictures have it in their captions.
"""

from __future__ import annotations

from nanogpt_lens.results import Result


def doubts(*results: Result | None, **named: Result | None) -> str:
    """Sentences that stand behind a caption, with a blank in front; "" where there is nothing to say.

    Args:
        results: whose intervals are shown; None for one that was not made.
        named: the same, of columns that have a name, which stands in front: `text` for "Text".
    """
    every = [("Intervals", result) for result in results]
    every += [(name.replace("_", " ").capitalize(), result) for name, result in named.items()]
    said = [sentence for what, result in every if result is not None for sentence in _sentences(result, what)]
    return "".join(dict.fromkeys(said))


def doubt(words: str, what: str = "Intervals") -> str:
    """One such sentence, from the words of `few_examples` or `in_sample_words`; "" for none."""
    return f" {what}: {words}." if words else ""


def _sentences(result: Result, what: str) -> list[str]:
    in_sample = "" if result.sample is None else result.sample.in_sample_words
    return [doubt(words, what) for words in (result.few_examples, in_sample)]
