"""Derive `affine/envs/engines/alfworld/scenes.json` from an `alfworld` wheel.

The wheel carries what AI2-THOR's 120 floor plans hold (object classes, receptacles with their coordinates),
which receptacle may hold what, what can be heated, cooled, cleaned, toggled and sliced, the goals in PDDL with
their phrasings, the PDDL domain and the text grammar. The environment needs these as data, without the
package and its compiler-built dependencies, so this script copies them into one compact table:

    pip download --no-deps alfworld==0.4.2
    python scripts/alfworld_scenes.py alfworld-0.4.2-py3-none-any.whl affine/envs/engines/alfworld/scenes.json

The table is under the wheel's MIT licence, whose text it holds. Same wheel, same bytes.
"""

from __future__ import annotations

import argparse
import json
import re
import zipfile
from pathlib import Path
from typing import Any

TASK_TYPES = (
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
)


def run_module(wheel: zipfile.ZipFile, path: str) -> dict[str, Any]:
    """The globals of a module of plain definitions inside the wheel, without importing the package."""
    names: dict[str, Any] = {}
    exec(compile(wheel.read(path), path, "exec"), names)  # noqa: S102 - the wheel that the user named
    return names


def one_line(pddl: str) -> str:
    """PDDL without comments and line breaks; the library writes '#' where PDDL wants '-'."""
    return " ".join(re.sub(r";[^\n]*", "", pddl).replace("#", "-").split())


def goals(wheel: zipfile.ZipFile, constants: dict[str, Any]) -> dict[str, Any]:
    """Task type -> goal in PDDL, task phrasings, and the rooms where such a task makes sense."""
    library = run_module(wheel, "alfworld/gen/goal_library.py")["gdict"]
    return {
        name: {
            "pddl": one_line(library[name]["pddl"]),
            "templates": library[name]["templates"],
            "rooms": sorted(constants["GOALS_VALID"][name]),
        }
        for name in TASK_TYPES
    }


def scene(wheel: zipfile.ZipFile, number: int, room: str) -> dict[str, Any]:
    """One floor plan: object classes present, and the coordinates of its receptacles by class."""
    layouts = f"alfworld/gen/layouts/FloorPlan{number}"
    receptacles: dict[str, list[str]] = {}
    for identifier in json.loads(wheel.read(f"{layouts}-openable.json")):
        name, x, y, z, *part = identifier.split("|")
        receptacles.setdefault(part[0] if part else name, []).append(f"{x}|{y}|{z}")
    return {
        "room": room,
        "objects": sorted(json.loads(wheel.read(f"{layouts}-objects.json"))),
        "receptacles": {name: sorted(places) for name, places in sorted(receptacles.items())},
    }


def help_text(grammar: str) -> str:
    """What the game answers to "help" (its text generator drops the leading line break)."""
    found = re.search(r'"help\.feedback": \[\s*\{\s*"rhs": ("(?:[^"\\]|\\.)*")', grammar)
    if found is None:
        raise SystemExit("the wheel's alfred.twl2 has no help text; is this alfworld 0.4?")
    text: str = json.loads(found.group(1))
    return text.lstrip()


def table(wheel: zipfile.ZipFile) -> dict[str, Any]:
    """The whole table. Raises KeyError where the wheel lacks a file."""
    constants = run_module(wheel, "alfworld/gen/constants.py")
    info = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")).rpartition("/")[0]
    metadata = wheel.read(f"{info}/METADATA").decode()
    version = next(line for line in metadata.splitlines() if line.startswith("Version:")).split()[1]
    grammar = wheel.read("alfworld/data/alfred.twl2").decode()
    holds = {name: sorted(held) for name, held in constants["VAL_RECEPTACLE_OBJECTS"].items()}
    return {
        "source": {"package": "alfworld", "version": version, "license": wheel.read(f"{info}/LICENSE").decode()},
        "holds": dict(sorted(holds.items())),
        "movable": sorted(constants["MOVABLE_RECEPTACLES"]),
        "openable": sorted(constants["OPENABLE_CLASS_SET"]),
        "can": {name.lower(): sorted(held) for name, held in sorted(constants["VAL_ACTION_OBJECTS"].items())},
        "goals": goals(wheel, constants),
        "scenes": {
            str(number): scene(wheel, number, room)
            for room, numbers in constants["SCENE_TYPE"].items()
            for number in numbers
        },
        "domain": re.sub(
            r"\n\s*\n+", "\n", re.sub(r"[ \t]*;[^\n]*", "", wheel.read("alfworld/data/alfred.pddl").decode())
        ),
        "grammar": grammar,
        "help": help_text(grammar),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Derive the ALFWorld table from an alfworld wheel.")
    parser.add_argument("wheel", type=Path)
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    with zipfile.ZipFile(args.wheel) as wheel:
        if "alfworld/gen/constants.py" not in wheel.namelist():
            raise SystemExit(f"{args.wheel} is no alfworld wheel: it holds no alfworld/gen/constants.py")
        data = table(wheel)
    lines = (f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in data.items())
    args.output.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
