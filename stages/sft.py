"""Stage `sft`: fine-tune the base on the dataset. See `affine.training.sft`."""

import sys
from pathlib import Path

from affine.dataset.sequences import DatasetError
from affine.models.attention import AttentionError
from affine.models.checkpoint import CheckpointError
from affine.params import ParamsError, load_params
from affine.training.sft import SftError, train_sft

if __name__ == "__main__":
    try:
        train_sft(load_params(), Path("."))
    except (ParamsError, DatasetError, CheckpointError, AttentionError, SftError) as error:
        sys.exit(str(error))
