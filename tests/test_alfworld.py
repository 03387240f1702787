"""ALFWorld without the real engine: contract, games, goals, expert, robustness, files."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affine.collect.play import play
from affine.envs.alfworld import EVEN, AlfWorld
from affine.envs.alfworld_expert import SUCCESS
from affine.envs.engines.alfworld import files, games
from affine.envs.engines.alfworld.engine import Engine, display_names, listing
from affine.envs.engines.alfworld.games import Size
from affine.envs.engines.alfworld.pddl import ProblemError, parse_problem
from affine.envs.env import EnvError, EnvSettings, make, make_expert
from affine.types import Split, Task, to_json

THIN = Size((6, 6), (6, 6))

KITCHEN = """(define (problem plan) (:domain alfred) (:objects agent1 - agent AppleType KnifeType - otype
FridgeType CounterTopType MicrowaveType - rtype
Fridge_bar_1 CounterTop_bar_1 CounterTop_bar_2 Microwave_bar_1 - receptacle
Apple_bar_1 Apple_bar_2 Knife_bar_1 - object loc_bar_0 loc_bar_1 loc_bar_2 loc_bar_3 loc_bar_4 - location)
(:init (= (total-cost) 0) (atLocation agent1 loc_bar_0)
(receptacleType Fridge_bar_1 FridgeType) (receptacleAtLocation Fridge_bar_1 loc_bar_1) (openable Fridge_bar_1)
(receptacleType CounterTop_bar_1 CounterTopType) (receptacleAtLocation CounterTop_bar_1 loc_bar_2)
(receptacleType CounterTop_bar_2 CounterTopType) (receptacleAtLocation CounterTop_bar_2 loc_bar_3)
(receptacleType Microwave_bar_1 MicrowaveType) (receptacleAtLocation Microwave_bar_1 loc_bar_4)
(openable Microwave_bar_1)
(objectType Apple_bar_1 AppleType) (inReceptacle Apple_bar_1 CounterTop_bar_1) (objectAtLocation Apple_bar_1 loc_bar_2)
(objectType Apple_bar_2 AppleType) (inReceptacle Apple_bar_2 CounterTop_bar_1) (objectAtLocation Apple_bar_2 loc_bar_2)
(objectType Knife_bar_1 KnifeType) (inReceptacle Knife_bar_1 CounterTop_bar_1) (objectAtLocation Knife_bar_1 loc_bar_2)
(pickupable Apple_bar_1) (pickupable Apple_bar_2) (pickupable Knife_bar_1) (heatable Apple_bar_1) (coolable Apple_bar_1)
(sliceable Apple_bar_1) (sliceable Apple_bar_2)
(canContain FridgeType AppleType) (canContain CounterTopType AppleType) (canContain CounterTopType KnifeType))
"""
TWO_IN_FRIDGE = games.table()["goals"]["pick_two_obj_and_place"]["pddl"].format(obj="Apple", recep="Fridge")
HOT_ON_COUNTER = games.table()["goals"]["pick_heat_then_place_in_recep"]["pddl"].format(obj="Apple", recep="CounterTop")


def task(level: int, id: int, seed: int = 0) -> Task:
    return Task("alfworld", level, id, seed, Split.TRAIN)


def kitchen(goal: str) -> Engine:
    return Engine(parse_problem(KITCHEN + goal), "put", "help")


def run(engine: Engine, *commands: str) -> list[str]:
    return [engine.step(command) for command in commands]


# The engine, against answers worked out by hand from the domain.


def test_names_count_downwards_in_sorted_order() -> None:
    names = display_names(["shelf_bar_b", "shelf_bar_a", "sink_bar_1_bar_sinkbasin", "agent1"])
    assert names == {"shelf_bar_a": "shelf 2", "shelf_bar_b": "shelf 1", "sink_bar_1_bar_sinkbasin": "sinkbasin 1"}


def test_listing_keeps_the_comma_before_and() -> None:
    assert listing([]) == "nothing"
    assert listing(["a pen 1"]) == "a pen 1"
    assert listing(["a pen 2", "a pen 1"]) == "a pen 2, and a pen 1"


def test_two_objects_must_lie_in_the_same_place() -> None:
    engine = kitchen(TWO_IN_FRIDGE)
    feedback = run(
        engine,
        *("go to countertop 2", "take apple 2 from countertop 2", "go to fridge 1", "put apple 2 in/on fridge 1"),
        *("open fridge 1", "put apple 2 in/on fridge 1", "go to countertop 2", "take apple 1 from countertop 2"),
    )
    assert feedback == [
        "You arrive at loc 3. On the countertop 2, you see a apple 2, a apple 1, and a knife 1.",
        "You pick up the apple 2 from the countertop 2.",
        "You arrive at loc 4. The fridge 1 is closed.",
        "Nothing happens.",  # closed
        "You open the fridge 1. The fridge 1 is open. In it, you see nothing.",
        "You put the apple 2 in/on the fridge 1.",
        "You arrive at loc 3. On the countertop 2, you see a apple 1, and a knife 1.",
        "You pick up the apple 1 from the countertop 2.",
    ]
    assert not engine.won
    run(engine, "go to fridge 1", "put apple 1 in/on fridge 1")
    assert engine.won


def test_cooling_undoes_heating() -> None:
    engine = kitchen(HOT_ON_COUNTER)
    run(
        engine,
        "go to countertop 2",
        "take apple 2 from countertop 2",
        "go to microwave 1",
        "heat apple 2 with microwave 1",
    )
    assert engine.step("examine apple 2") == "This is a hot apple 2."
    run(engine, "go to fridge 1", "cool apple 2 with fridge 1", "go to countertop 1", "put apple 2 in/on countertop 1")
    assert not engine.won
    run(engine, "take apple 2 from countertop 1", "go to microwave 1", "heat apple 2 with microwave 1")
    assert not engine.won
    run(engine, "go to countertop 1", "put apple 2 in/on countertop 1")
    assert engine.won


def test_slicing_needs_a_knife_in_hand_and_the_food_out_of_it() -> None:
    engine = kitchen(TWO_IN_FRIDGE)
    run(engine, "go to countertop 2")
    assert not any(command.startswith("slice") for command in engine.actions())
    run(engine, "take knife 1 from countertop 2")
    assert "slice apple 1 with knife 1" in engine.actions()
    assert engine.step("slice apple 1 with knife 1") == "You sliced the apple 1 with the knife 1."


def test_one_hand() -> None:
    engine = kitchen(TWO_IN_FRIDGE)
    run(engine, "go to countertop 2", "take apple 1 from countertop 2")
    assert not any(command.startswith("take") for command in engine.actions())
    assert engine.step("take apple 2 from countertop 2") == "Nothing happens."


@pytest.mark.parametrize(
    "text",
    [
        "",
        "(define",
        "(define (problem p)))",
        "(define (:objects) (:init) (:goal (or (holds agent1 x) (holds agent1 y))))",
    ],
)
def test_unplayable_problems_are_named(text: str) -> None:
    with pytest.raises(ProblemError, match="PDDL"):
        parse_problem(text)


# Generated games.


@pytest.mark.parametrize("task_type", sorted(EVEN))
@pytest.mark.parametrize("size", [THIN, Size()], ids=["thin", "whole"])
def test_games_start_unsolved_and_place_things_where_the_table_allows(task_type: str, size: Size) -> None:
    for number in range(15):
        game = games.generate(random.Random(f"{task_type}/{number}"), {task_type: 1}, size)
        engine = game.engine()
        assert not engine.won
        holds = {name.lower(): {held.lower() for held in held_by} for name, held_by in games.table()["holds"].items()}
        for receptacle, things in engine.contents.items():
            name = engine.kind[receptacle].removesuffix("type")
            for thing in things:
                kind = engine.kind[thing].removesuffix("type")
                assert kind in holds[name] or kind.endswith("lamp")
                assert not (kind == game.target.lower() and name == game.parent.lower())
        assert game.target.lower() in game.sentence
        assert (game.parent or game.lamp).lower() in game.sentence
        assert games.table()["scenes"][game.scene]["room"] in games.table()["goals"][task_type]["rooms"]


def test_whole_rooms_keep_every_receptacle_of_the_plan() -> None:
    game = games.generate(random.Random(1), {"pick_heat_then_place_in_recep": 1}, Size())
    plan = games.table()["scenes"][game.scene]["receptacles"]
    room = game.engine().room()
    for name, places in plan.items():
        assert sum(shown.startswith(f"{name.lower()} ") for shown in room) == len(places)
    assert sum(shown.startswith("stoveburner ") for shown in room) == 4


def test_enough_distinct_tasks_and_no_floor_plan_in_two_splits() -> None:
    env = make("alfworld")
    contents = [env.content(0, id, 0) for id in range(1500)]
    assert len({content.key for content in contents if content}) > 1200
    groups = {content.group for content in contents if content}
    assert 60 < len(groups) <= 120
    same_rooms = {content.group for id in range(1500) if (content := env.content(4, id, 0))}
    assert groups & same_rooms  # a floor plan is one group at every level


def test_the_table_is_what_the_script_derives(tmp_path: Path) -> None:
    """All 120 floor plans, goals and grammar, byte by byte, where the wheel's files are installed: they are packed into
    a wheel again, which the script reads."""
    spec = importlib.util.find_spec("alfworld")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the extra `alfworld` is not installed")
    site = Path(next(iter(spec.submodule_search_locations))).parent
    wheel, out = tmp_path / "alfworld.whl", tmp_path / "scenes.json"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path in importlib.metadata.files("alfworld") or ():
            if path.parts[0] != ".." and path.suffix != ".pyc":
                name = str(path)
                # Some installers keep the licence a folder deeper than the wheel did.
                archive.write(site / path, name.replace(".dist-info/licenses/", ".dist-info/"))
    script = Path(__file__).parent.parent / "scripts" / "alfworld_scenes.py"
    subprocess.run([sys.executable, script, wheel, out], check=True)
    assert out.read_bytes() == Path(games.__file__).with_name("scenes.json").read_bytes()


def test_the_script_names_a_wheel_it_cannot_read(tmp_path: Path) -> None:
    wheel = tmp_path / "other.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("other/__init__.py", "")
    script = Path(__file__).parent.parent / "scripts" / "alfworld_scenes.py"
    command = [sys.executable, script, wheel, tmp_path / "out.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "no alfworld wheel" in done.stderr
    assert not (tmp_path / "out.json").exists()


# The contract.


def test_opening_and_reward_as_agentgym_had_them() -> None:
    env = AlfWorld(EnvSettings(mode="upstream", prompts="full"))
    instruction, acknowledgement, observation = env.reset(task(4, 7))
    assert (instruction.role, acknowledgement.role, observation.role) == ("user", "assistant", "user")
    room, goal, available = observation.content.split("\n")
    assert room.startswith("You are in the middle of a room. Looking quickly around you, you see a ")
    assert goal == f"Your task is to: {env.game.sentence}."
    assert available == "AVAILABLE ACTIONS: " + ",".join(sorted(env.play.actions()))
    first = env.play.room()[0]
    result = env.step(f"Thought: an Action: look would not help.\nAction: go to {first}")
    assert result.valid
    assert result.observation.startswith((f"On the {first}, you see", f"The {first} is closed."))
    assert (result.reward, result.done) == (0.0, False)
    assert env.step("Action: fly away").observation == "Nothing happens."


def test_the_modes_differ_as_documented() -> None:
    replies = ["Action: LOOK.", "Action:  go  to " + "{room}", "Action: dance"]
    for mode, valid in (("upstream", [False, False, False]), ("fixed", [True, True, False])):
        env = AlfWorld(EnvSettings(mode=mode))
        env.reset(task(4, 7))
        results = [env.step(reply.format(room=env.play.room()[0])) for reply in replies]
        assert [result.valid for result in results] == valid
        assert ("AVAILABLE ACTIONS" in results[2].observation) == (mode == "fixed")


@pytest.mark.parametrize(
    ("mode", "wordings"), [("upstream", ["in", "on", "in/on"]), ("fixed", ["in", "on", "to", "in/on"])]
)
def test_put_wordings(mode: str, wordings: list[str]) -> None:
    for wording in wordings:
        env = AlfWorld(EnvSettings(mode=mode))  # type: ignore[arg-type]
        env.reset(task(0, 3))
        expert = make_expert(env, random.Random(0))
        while not (move := expert.act()).action.startswith("put"):
            expert.observe(move.action, env.step(f"Action: {move.action}"))
        verb = "move" if wording == "to" else "put"
        assert env.step("Action: " + move.action.replace(" in/on ", f" {wording} ").replace("put", verb)).reward == 1.0
        assert env.solved()


def test_brief_observations_keep_everything_that_informs() -> None:
    env = make("alfworld")
    for id in range(30):
        env.reset(task(1, id))
        rng = random.Random(id)
        for _ in range(20):
            command = rng.choice(sorted(env.play.actions().keys() - {"help", "look", "inventory"}))
            observation = env.step(f"Action: {command}").observation
            for thing in env.play.contents.get(env.play.shown, []):
                seen = env.play.is_accessible(env.play.shown)
                assert (env.play.names[thing] in observation) == seen
            assert not observation.startswith("You arrive")


def test_unknown_tasks_are_errors() -> None:
    env = make("alfworld")
    with pytest.raises(EnvError, match="no level 9"):
        env.reset(task(9, 0))
    with pytest.raises(EnvError, match="no task -1"):
        env.reset(task(0, -1))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(st.text(max_size=80), st.text(max_size=30).map("Action: {}".format)), max_size=4))
def test_any_reply_gets_an_observation(replies: list[str]) -> None:
    env = make("alfworld")
    env.reset(task(3, 1))
    for reply in [
        *replies,
        "\ud800Action: \ud800",
        "Action: put " + "x in " * 50_000 + "\n",
        "Action: a\nAction: look",
    ]:
        result = env.step(reply)
        assert result.observation
        assert result.reward == 0.0
    assert result.valid  # the last "Action:" counts


# The expert.


@pytest.mark.parametrize(("level", "count"), [(0, 20), (2, 20), (4, 20)])
def test_expert_reaches_its_documented_rate(level: int, count: int) -> None:
    env = make("alfworld")
    played = [play(env, task(level, 10_000 + id), random.Random(id)) for id in range(count)]
    assert sum(trajectory.solved for trajectory in played) >= SUCCESS[level] * count - 1
    for trajectory in played:
        assert trajectory.score == (trajectory.turns[-1].reward if trajectory.turns else 0.0)
        assert all(turn.valid for turn in trajectory.turns)


def test_expert_finds_back_after_wandering() -> None:
    env = make("alfworld")
    solved = [play(env, task(level, id), random.Random(id), noise=0.3).solved for level in (0, 2) for id in range(30)]
    assert sum(solved) >= 54


def test_expert_plays_the_engines_verdict_in_replay() -> None:
    """Replaying the expert's commands on a fresh engine wins at the last command and not before."""
    env = make("alfworld")
    for id in range(20):
        trajectory = play(env, task(2, id), random.Random(id), style="thought")
        engine = env.game.engine()
        verdicts = []
        for turn in trajectory.turns:
            engine.step(turn.text.rpartition("Action: ")[2])
            verdicts.append(engine.won)
        assert verdicts == [False] * (len(verdicts) - 1) + [trajectory.solved]
        assert all(len(turn.text.partition("\n")[0].split()) <= 13 for turn in trajectory.turns)  # with "Thought:"


def test_expert_knows_only_what_it_was_shown() -> None:
    """Moving everything that it has not seen yet does not change its next move."""
    env = make("alfworld")
    for id in range(20):
        env.reset(task(3, id))
        expert = make_expert(env, random.Random(0))
        for _ in range(3):
            unseen = sorted(env.play.contents.keys() - expert.seen.keys())
            before = expert.act()
            kept = {place: env.play.contents[place] for place in unseen}
            env.play.contents.update(
                (place, kept[other]) for place, other in zip(unseen, reversed(unseen), strict=True)
            )
            assert expert.act() == before
            env.play.contents.update(kept)
            expert.observe(before.action, env.step(f"Action: {before.action}"))


def test_random_play_is_rarely_lucky() -> None:
    env = make("alfworld")
    wins = 0.0
    for id in range(200):
        env.reset(task(0, id))
        rng = random.Random(id)
        for _ in range(env.turn_limit):
            if env.step(f"Action: {rng.choice(sorted(env.play.actions()))}").done:
                break
        wins += env.score()
    assert 0 < wins / 200 < 0.2


def test_same_bytes_under_any_hash_seed() -> None:
    program = (
        "import random, hashlib\n"
        "from affine.collect.play import play\nfrom affine.envs.env import make\nfrom affine.types import *\n"
        "env = make('alfworld'); d = hashlib.sha256()\n"
        "for level in range(5):\n for id in range(5):\n"
        "  task = Task('alfworld', level, id, 3, Split.TRAIN)\n"
        "  d.update(to_json(play(env, task, random.Random(id), noise=.2)).encode())\n"
        "print(d.hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    }
    assert len(digests) == 1
    assert len(digests.pop()) == 65


# Files.


def test_saved_games_load_to_the_same_game(tmp_path: Path) -> None:
    for number, task_type in enumerate(sorted(EVEN)):
        game = games.generate(random.Random(number), {task_type: 1}, THIN)
        assert files.load(files.save(game, tmp_path / "train", f"trial_{number}")) == game
    assert len(files.real_games(tmp_path)) == len(EVEN)


def test_what_upstream_leaves_out_is_left_out(tmp_path: Path) -> None:
    game = games.generate(random.Random(1), {"pick_and_place_simple": 1}, THIN)
    path = files.save(game, tmp_path / "train", "trial_Sliced")
    assert files.real_games(tmp_path) == []
    path = files.save(game, tmp_path / "train", "trial_1")
    assert files.real_games(tmp_path) == [path]
    path.write_text(json.dumps({**json.loads(path.read_text()), "solvable": False}))
    assert files.real_games(tmp_path) == []


def test_downloaded_games_are_a_level_of_their_own(tmp_path: Path) -> None:
    for split, name in (("train", "a"), ("train", "b"), ("valid_seen", "c"), ("valid_unseen", "d")):
        game = games.generate(random.Random(name), {"pick_and_place_simple": 1}, THIN)
        files.save(game, tmp_path / "json_2.1.1" / split, f"trial_{name}")
    program = (
        "import random\nfrom affine.collect.play import play\nfrom affine.envs.env import make\n"
        "from affine.types import *\nenv = make('alfworld')\n"
        "print(env.size(5), *[env.official_split(5, id, 0) for id in range(4)], env.content(5, 4, 0),\n"
        "      *[play(env, Task('alfworld', 5, id, 0, Split.TRAIN), random.Random(0)).solved for id in range(4)],\n"
        "      *[f'{name}:{part.first}-{part.last}' for name, part in env.id_ranges.items()])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "ALFWORLD_DATA": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    splits, ranges = ["train", "train", "validation", "test"], ["train:0-1", "valid_seen:2-2", "valid_unseen:3-3"]
    assert done.stdout.split() == ["4", *splits, "None", *["True"] * 4, *ranges]
    assert not make("alfworld").id_ranges, "no data, no ranges"


def test_task_is_a_pure_function_of_level_id_and_seed() -> None:
    env, other = make("alfworld"), make("alfworld")
    other.reset(task(4, 99))
    assert env.reset(task(1, 5, 2)) == other.reset(task(1, 5, 2))
    assert env.content(1, 5, 2) != env.content(1, 5, 3)
    first = play(env, task(2, 1), random.Random(0))
    assert to_json(first) == to_json(play(other, task(2, 1), random.Random(0)))
