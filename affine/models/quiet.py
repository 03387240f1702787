"""What transformers prints is for a person who watches, and only where that person can act on it."""

from __future__ import annotations

import sys
import warnings

from transformers.utils import logging


def quiet_transformers() -> None:
    """No bars in a log, and no notice of a property that transformers renames and peft still asks for."""
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
