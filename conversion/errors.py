"""The errors on the way from a nanoGPT checkpoint to a TransformerLens model.

Every message is one sentence that names the file, the key or the value, and says what was
expected and what to do.
"""


def printable(text: str) -> str:
    """A text on one line, with line breaks and control characters escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def reason_of(error: Exception) -> str:
    """The first line of what an error says, and its kind where it says nothing."""
    said = str(error).strip()
    return said.splitlines()[0][:120] if said else type(error).__name__


class NanoGPTLensError(ValueError):
    """The base of all errors that `conversion` and `nanogpt_lens` raise.

    A message may quote words of a file, so that it is made `printable`.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class ConversionError(NanoGPTLensError):
    """Raised if a conversion is not possible; the base of the errors below."""


class CheckpointError(ConversionError):
    """Raised for a file that does not exist, cannot be read, or is not a nanoGPT checkpoint."""


class CheckpointWarning(UserWarning):
    """Issued for a checkpoint that can be read in two ways, of which one was taken, or with a doubtful vocabulary."""


class VocabularyError(ConversionError):
    """Raised for a vocabulary that is missing, unsafe, or does not fit, and for a text that it cannot encode."""


class TokenWidthError(ConversionError):
    """Raised for a file of tokens that does not show how wide a token is."""


class BackendError(ConversionError):
    """Raised if the installed TransformerLens does not have what was asked for."""


class EquivalenceError(ConversionError):
    """Raised if a converted model does not compute what the checkpoint computes."""
