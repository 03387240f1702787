"""Stage `sft`: fine-tune the base on the dataset. See `affine.training.sft`."""

import os
import sys
from pathlib import Path

# OpenMP threads that spin while they wait are ruinous on cores that others use too (44 small steps took
# 102 s instead of 3.7 s); it must be said before torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

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
