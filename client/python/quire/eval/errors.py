"""What quire-eval cannot do with what it was given."""

from __future__ import annotations

from ..errors import Corrupt, FailedPrecondition, InvalidArgument


class TokenizerMissing(FailedPrecondition):
    """The model's files hold no tokenizer: no text can be asked about."""


class DocumentsMissing(InvalidArgument):
    """No documents, or too little text in them."""


class PromptTooLong(InvalidArgument):
    """A prompt with its answer does not fit the model's context."""


class RunMismatch(FailedPrecondition):
    """A folder holds results of other prompts or another model."""


class RunInUse(FailedPrecondition):
    """Another process writes a run into the folder."""


class RunDamaged(Corrupt):
    """A file of a run's folder cannot be read."""
