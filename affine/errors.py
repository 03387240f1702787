"""The one base class of errors that are the user's to mend."""


class AffineError(Exception):
    """Something is wrong that a person can put right: bad input, a missing file, an engine that does not
    start. Its message is one or two lines that name the thing and the remedy; a stage prints it without a
    traceback and exits with 1."""
