"""ALFWorld games as files: saved for the real engine, and read from the downloaded data set."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from affine.envs.engines.alfworld.games import Game, grammar, table

SPLITS = ("train", "valid_seen", "valid_unseen", "valid_train")
"""Folders of the downloaded data set."""


def real_game(game: Game) -> dict[str, Any]:
    """The content of a `game.tw-pddl` file, as the real engine loads it."""
    return {
        "pddl_domain": table()["domain"],
        "grammar": grammar(game.dialect).replace("UNKNOWN GOAL", game.sentence),
        "pddl_problem": game.problem,
        "solvable": True,
        "walkthrough": None,
    }


def save(game: Game, root: Path, trial: str) -> Path:
    """Write `game` below `root` as the real loader expects it and return the path of its game file."""
    folder = root / "-".join((game.task_type, game.target, "None", game.parent or game.lamp, game.scene)) / trial
    folder.mkdir(parents=True, exist_ok=True)
    params = {
        "object_target": game.target,
        "parent_target": game.parent,
        "toggle_target": game.lamp,
        "mrecep_target": "",
        "object_sliced": False,
    }
    trajectory = {"task_type": game.task_type, "task_id": trial, "pddl_params": params}
    trajectory["scene"] = {"scene_num": int(game.scene), "floor_plan": f"FloorPlan{game.scene}"}
    (folder / "traj_data.json").write_text(json.dumps(trajectory, sort_keys=True), encoding="utf-8")
    path = folder / "game.tw-pddl"
    path.write_text(json.dumps(real_game(game), sort_keys=True), encoding="utf-8")
    return path


def load(path: Path) -> Game:
    """A game from its `game.tw-pddl` and the `traj_data.json` beside it.

    Raises OSError, ValueError or KeyError where one is missing or is not what it should be.
    """
    data = json.loads(path.read_text(encoding="utf-8"))
    trajectory = json.loads((path.parent / "traj_data.json").read_text(encoding="utf-8"))
    params = trajectory["pddl_params"]
    sentence = str(data["grammar"]).partition("Your task is to: ")[2].partition('"')[0].rstrip().removesuffix(".")
    is_light = trajectory["task_type"] == "look_at_obj_in_light"
    return Game(
        task_type=trajectory["task_type"],
        scene=str(trajectory["scene"]["scene_num"]),
        problem=data["pddl_problem"],
        sentence=sentence,
        target=params["object_target"],
        parent="" if is_light else params["parent_target"],
        lamp=params["toggle_target"] if is_light else "",
        dialect="put" if "put {o} in/on {r}" in data["grammar"] else "move",
    )


def data_folder() -> Path | None:
    """The downloaded data set below `$ALFWORLD_DATA`, or None where there is none."""
    root = os.environ.get("ALFWORLD_DATA")
    folder = Path(root) / "json_2.1.1" if root else None
    return folder if folder is not None and folder.is_dir() else None


def real_games(folder: Path) -> list[Path]:
    """The playable game files of the data set, by split, sorted: what upstream leaves out is left out."""
    found = []
    for split in SPLITS:
        for path in sorted((folder / split).rglob("game.tw-pddl")):
            if "movable" in str(path) or "Sliced" in str(path):
                continue
            if json.loads(path.read_text(encoding="utf-8")).get("solvable"):
                found.append(path)
    return found
