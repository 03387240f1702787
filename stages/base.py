"""Stage `base`: the starting checkpoint. See `affine.models.base`."""

import sys
from pathlib import Path

from affine.models.base import make_base
from affine.models.checkpoint import CheckpointError
from affine.params import ParamsError, load_params

if __name__ == "__main__":
    try:
        make_base(load_params(), Path("."))
    except (ParamsError, CheckpointError) as error:
        sys.exit(str(error))
