"""`params`: check params.yaml, or print every value in force."""

from __future__ import annotations

import argparse

import yaml

from affine.params import load_params


def run(arguments: list[str]) -> int:
    """0 where the file is valid. Raises ParamsError."""
    parser = argparse.ArgumentParser(
        prog="python -m affine params",
        description="Check a parameter file and print every value in force, defaults it doesn't mention included.",
    )
    parser.add_argument("file", nargs="?", default="params.yaml", help="default: params.yaml")
    parser.add_argument("--check", action="store_true", help="only say whether the file is valid")
    chosen = parser.parse_args(arguments)
    params = load_params(chosen.file)
    if chosen.check:
        print(f"{chosen.file}: valid")
    else:
        print(
            yaml.safe_dump(params.model_dump(mode="json"), sort_keys=False, default_flow_style=None, width=120), end=""
        )
    return 0
