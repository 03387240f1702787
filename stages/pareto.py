"""Stage `pareto`: decide with intervals, the validators' policies and paired evidence (affine/pareto)."""

from __future__ import annotations

import sys
from pathlib import Path

from affine.params import ParamsError, load_params
from affine.pareto.run import run_pareto
from affine.pareto.summary import EvaluationError


def main() -> None:
    """Run the stage from the repository's root."""
    try:
        run_pareto(load_params(), Path())
    except (ParamsError, EvaluationError) as error:
        sys.exit(f"pareto: {error}")


if __name__ == "__main__":
    main()
