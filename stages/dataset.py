"""Stage `dataset`: demonstrations as tokens. See `affine.dataset.build`."""

import sys
from pathlib import Path

from affine.dataset.build import build_dataset
from affine.dataset.sequences import DatasetError
from affine.params import ParamsError, load_params

if __name__ == "__main__":
    try:
        build_dataset(load_params(), Path("."))
    except (ParamsError, DatasetError) as error:
        sys.exit(str(error))
