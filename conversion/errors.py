"""What can go wrong on the way from a nanoGPT checkpoint to a TransformerLens model.

Every message is one sentence that names the file, the key or the value, what was
expected and what to do.
"""


def printable(text: str) -> str:
    """A file's words on one line: line breaks and control characters are escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class NanoGPTLensError(ValueError):
    """Anything that `conversion` or `nanogpt_lens` refuses to do; the base of all their errors.

    What a file says is shown in its message, which is therefore made `printable`.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class ConversionError(NanoGPTLensError):
    """A conversion that is refused; the base of the errors below."""


class CheckpointError(ConversionError):
    """A file that is not there, cannot be read, or is not a nanoGPT checkpoint."""


class VocabularyError(ConversionError):
    """A vocabulary that is missing, unsafe, or does not fit; a text it cannot encode."""


class BackendError(ConversionError):
    """The installed TransformerLens does not have what was asked for."""


class EquivalenceError(ConversionError):
    """A converted model that does not compute what the checkpoint computes."""
