"""TextCraft: the recipes against their source, the crafting rules, the task generator and the expert."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affine.collect.play import play
from affine.envs.engines.textcraft.book import TABLE, Recipe, RecipeBook, recipe_book
from affine.envs.env import EnvError, EnvSettings, make_expert
from affine.envs.textcraft import TextCraft
from affine.envs.textcraft_expert import SUCCESS, read_commands
from affine.types import Split, StopReason, Task

SCRIPT = Path(__file__).parent.parent / "scripts" / "textcraft_recipes.py"


def task(level: int, id: int, seed: int = 0) -> Task:
    return Task("textcraft", level, id, seed, Split.TRAIN)


def start(goal: str, mode: str = "fixed") -> TextCraft:
    env = TextCraft(EnvSettings(mode=mode))  # type: ignore[arg-type]
    env.reset(task(5, recipe_book().goals((1, 2, 3, 4)).index(goal)))
    assert env.goal == goal
    return env


def replies(env: TextCraft, *actions: str) -> list[str]:
    return [env.step(f"Action: {action}").observation for action in actions]


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("textcraft_recipes", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TestTable:
    def test_regenerates_byte_for_byte(self) -> None:
        module = script()
        folder = module.source_folder()
        items, recipes = (json.loads((folder / f"{name}.json").read_text()) for name in ("items", "recipes"))
        assert module.build(items, recipes) == TABLE.read_text(encoding="utf-8")
        # No source recipe is lost but the dropped ones: each is still accepted by the folded book.
        env = TextCraft()
        lost = []
        for output, made, ingredients in module.concrete_recipes(items, recipes):
            accepted = [r for r in env.book.recipes_of.get(output, []) if env._matches(r, ingredients)]
            if not any(recipe.made == made for recipe in accepted):
                lost.append((output, dict(ingredients)))
        assert all(len(used) == 1 and set(used.values()) == {1} for output, used in lost if output != "honey bottle")

    def test_sizes_of_minecraft_1_16(self) -> None:
        book = recipe_book()
        assert len(book.recipes) == 632
        depths = Counter(book.depth[goal] for goal in book.goals((1, 2, 3, 4)))
        assert depths == {1: 121, 2: 298, 3: 121, 4: 11}
        assert all(item in book.depth for item in book.recipes_of), "every item can be crafted"

    def test_depth_is_the_shortest_derivation(self) -> None:
        """Against a second definition: the least fixed point of 'flattest recipe', found by relaxation."""
        book = recipe_book()
        depth = {name: 0 if book.gettable(name) else 99 for name in sorted(book.names)}
        for _ in range(6):
            for recipe in book.recipes:
                depth[recipe.output] = min(depth[recipe.output], 1 + max(depth[name] for name, _ in recipe.ingredients))
            for tag, members in book.tags.items():
                if not book.gettable(tag):
                    depth[tag] = min(depth[member] for member in members)
        assert book.depth == depth

    def test_unpacking_is_dropped_only_with_its_inverse(self) -> None:
        book = recipe_book()
        assert "diamond" not in book.recipes_of  # only from a diamond block
        assert [r.ingredients for r in book.recipes_of["bone meal"]] == [(("bone", 1),)]
        assert "oak planks" in book.recipes_of  # one log, four planks, but no way back


class TestRules:
    def test_get_and_craft(self) -> None:
        env = start("bread")
        assert replies(env, "inventory", "get 3 wheat", "inventory") == [
            "Inventory: You are not carrying anything.",
            "Got 3 wheat",
            "Inventory: [wheat] (3)",
        ]
        result = env.step("Thought: enough.\nAction: craft 1 bread using 3 wheat")
        assert (result.observation, result.reward, result.done) == ("Crafted 1 bread", 1.0, True)
        assert env.score() == 1.0
        assert env.solved()

    @pytest.mark.parametrize(
        ("action", "reply"),
        [
            ("get 1 bread", "Could not find bread"),
            ("get 1 planks", "Could not find planks"),
            ("get 1 unobtainium", "Could not find unobtainium"),
            ("craft 1 bread using 4 wheat", "Could not find enough items to craft bread"),
            ("craft 1 bread using 2 wheat", "Could not find a valid recipe for bread"),
            ("craft 1 bread using 2 wheat, 1 wheat", "Could not find a valid recipe for bread"),
            ("craft 1 cake using 3 wheat", "Could not find a valid recipe for cake"),
            ("craft 1 bread using wheat", "Wrong item format: wheat"),
            ("eat bread", "Could not execute eat bread"),
            ("get bread", "Could not execute get bread"),
            ("get 99999999999999999999 wheat", "Could not execute get 99999999999999999999 wheat"),
            ("", "Could not execute "),
        ],
    )
    def test_refusals_change_nothing(self, action: str, reply: str) -> None:
        env = start("bread")
        env.step("Action: get 3 wheat")
        result = env.step(f"Action: {action}")
        assert (result.observation, result.reward, result.done, result.valid) == (reply, 0.0, False, False)
        assert env.inventory == {"wheat": 3}

    def test_exactly_one_action_a_reply(self) -> None:
        env = start("bread")
        two = env.step("Action: get 3 wheat\nAction: craft 1 bread using 3 wheat")
        assert two.observation.startswith("Error")
        assert not two.valid
        assert env.step("get 3 wheat").observation == "Could not execute "
        assert env.inventory == {}
        assert env.step("Action:\n  get 3 wheat!\nsome more text").observation == "Got 3 wheat"

    def test_kinds_take_one_concrete_item(self) -> None:
        env = start("chest")
        got = replies(
            env,
            "get 2 oak logs",
            "get 1 birch log",
            "craft 4 oak planks using 1 oak logs",
            "craft 4 oak planks using 1 oak logs",
            "craft 4 birch planks using 1 birch log",
            "craft 1 chest using 4 oak planks, 4 birch planks",
            "craft 1 chest using 8 planks",
        )
        assert got[5] == "Could not find a valid recipe for chest"
        assert got[6] == "Could not find enough items to craft chest"
        assert env.step("Action: craft 1 chest using 8 oak planks").done

    def test_after_the_end_nothing_more_is_earned(self) -> None:
        env = start("bread")
        replies(env, "get 6 wheat", "craft 1 bread using 3 wheat")
        after = env.step("Action: craft 1 bread using 3 wheat")
        assert (after.reward, after.done, after.valid) == (0.0, True, False)
        assert env.inventory["wheat"] == 3

    def test_upstream_mode_is_the_same_game_with_its_defects(self) -> None:
        env = start("chest", "upstream")
        assert replies(
            env,
            "get 1 oak logs",
            "get 1 oak log",
            "craft 4 oak planks using 1 oak log",
            "craft 4 oak planks using 1 oak logs",
            "craft 1 chest using 8 oak planks",
        ) == [
            "Got 1 oak logs",
            "Got 1 oak log",
            "Could not find a valid recipe for "
            "ItemTagWithCount(item_tag=ItemTag(tag=None, item_id='minecraft:oak_planks'), count=4)",
            "Crafted 4 minecraft:oak_planks",
            "Could not find enough items to craft minecraft:chest",
        ]

    @settings(max_examples=150, deadline=None)
    @given(
        st.one_of(
            st.text(st.characters(exclude_categories=())),
            st.from_regex(r"(Action: ?(get|craft|inventory) [0-9a-z, ]*(using [0-9a-z, ]*)?\n?){1,2}"),
            st.sampled_from(["\ud800Action: get 1 \udfff", "Action: " + "9" * 9000, "Action: get 1 x" * 9999, "\0"]),
        )
    )
    def test_survives_any_reply(self, reply: str) -> None:
        env = start("bread")
        result = env.step(reply)
        assert isinstance(result.observation, str)
        assert (result.reward, result.done, env.score()) == (0.0, False, 0.0)
        assert env.step("Action: get 3 wheat").observation == "Got 3 wheat"


class TestTasks:
    @pytest.mark.parametrize("level", sorted(TextCraft.levels))
    def test_shows_what_the_goal_needs(self, level: int) -> None:
        """From the shown commands alone and what can be got, the goal is derivable."""
        env = TextCraft()
        for id in range(0, env.size(level) or 0, 37):
            env.reset(task(level, id))
            commands = read_commands(env.observation)
            assert level == 5 or len({command.output for command in commands}) > 1, "there is a distractor"
            reached: set[str] = set()

            def there(name: str, reached: set[str] = reached) -> bool:
                return env.book.gettable(name) or any(item in reached for item in env.book.sources(name))

            for _ in commands:
                reached |= {c.output for c in commands if all(there(name) for name, _ in c.ingredients)}
            assert env.goal in reached

    def test_level_zero_is_short_and_varied(self) -> None:
        env = TextCraft()
        size = env.size(0) or 0
        contents = [env.content(0, id, 0) for id in range(size)]
        assert env.content(0, size, 0) is None
        keys = {content.key for content in contents if content}
        groups = {content.group for content in contents if content}
        assert len(groups) == 118
        assert len(keys) > 3000
        in_test = {content.key for content in contents if content and int(content.group[:4], 16) % 10 < 3}
        assert len(in_test) > 200, "a split by goals leaves hundreds of tasks"
        words = []
        for id in range(0, size, 97):
            played = play(env, task(0, id), random.Random(id))
            texts = [m.content for m in played.opening] + [f"{t.text} {t.observation}" for t in played.turns]
            words.append(len(" ".join(texts).split()))
        assert max(words) <= 120

    def test_groups_are_goals_on_every_level(self) -> None:
        env = TextCraft()
        index = recipe_book().goals((1, 2, 3, 4)).index("bread")
        everything, small = env.content(5, index, 0), env.content(0, env._goals(0).index("bread"), 3)
        assert everything is not None
        assert small is not None
        assert everything.group == small.group
        assert everything.key != small.key
        assert env.content(5, index, 1) == everything, "the last level has upstream's fixed seed"

    def test_tasks_that_do_not_exist(self) -> None:
        env = TextCraft()
        with pytest.raises(EnvError, match="no level 9"):
            env.reset(task(9, 0))
        with pytest.raises(EnvError, match="ids 0 to 550"):
            env.reset(task(5, 551))

    def test_same_bytes_in_any_process(self) -> None:
        code = (
            "import random\n"
            "from affine.collect.play import play\n"
            "from affine.envs.env import make\n"
            "from affine.types import Split, Task, to_json\n"
            "env = make('textcraft')\n"
            "for level, id in ((0, 7), (1, 100), (5, 500)):\n"
            "    task = Task('textcraft', level, id, 1, Split.TRAIN)\n"
            "    played = play(env, task, random.Random(5), style='thought', noise=0.3)\n"
            "    print(env.content(level, id, 1), to_json(played))\n"
        )
        outputs = {
            subprocess.run(
                [sys.executable, "-c", code],
                env={**os.environ, "PYTHONHASHSEED": seed},
                capture_output=True,
                check=True,
                text=True,
            ).stdout
            for seed in ("0", "4242")
        }
        assert len(outputs) == 1


class TestExpert:
    @pytest.mark.parametrize("mode", ["fixed", "upstream"])
    @pytest.mark.parametrize(("level", "count"), [(0, 20), (1, 20), (2, 10), (3, 10), (4, 10), (5, 20)])
    def test_documented_success(self, level: int, count: int, mode: str) -> None:
        env = TextCraft(EnvSettings(mode=mode))  # type: ignore[arg-type]
        ids = random.Random(level).sample(range(env.size(level) or 0), count)
        solved = [play(env, task(level, id), random.Random(id)).solved for id in ids]
        assert sum(solved) >= SUCCESS[level] * count - 0.5

    def test_the_two_upstream_goals_that_take_too_long(self) -> None:
        env = TextCraft()
        for goal in ("anvil", "netherite block"):
            played = play(env, task(5, env._goals(5).index(goal)), random.Random(0))
            assert played.stop is StopReason.TURN_LIMIT
            assert all(turn.valid for turn in played.turns)

    def test_recovers_from_uninformed_moves(self) -> None:
        env = TextCraft()
        solved = [play(env, task(1, id), random.Random(id), noise=0.3).solved for id in range(0, 4000, 100)]
        assert sum(solved) / len(solved) > 0.9

    def test_wandering_sometimes_wins_and_mostly_loses(self) -> None:
        env = TextCraft()
        scores = [play(env, task(0, id), random.Random(id), noise=1.0).score for id in range(0, 4000, 20)]
        assert 0.1 < sum(scores) / len(scores) < 0.45

    def test_thoughts_are_short_and_about_what_is_shown(self) -> None:
        env = TextCraft()
        for id in range(0, 4000, 200):
            played = play(env, task(0, id), random.Random(id), style="thought")
            for turn in played.turns:
                thought = turn.text.partition("\n")[0].removeprefix("Thought: ")
                assert len(thought.split()) <= 12
                assert env.goal in thought.lower()

    def test_ignorant_of_the_book(self) -> None:
        """Commands that exist nowhere but on the page are planned with all the same."""
        env = TextCraft()
        env.reset(task(0, 0))
        env.observation = (
            "Crafting commands:\ncraft 2 gear using 3 cog\ncraft 1 clock using 3 gear, 1 oil\n\nGoal: craft clock."
        )
        expert = make_expert(env, random.Random(0))
        assert expert.act().action == "get 6 cog"


def test_circular_recipes_have_no_depth() -> None:
    book = RecipeBook([Recipe("a", 1, (("b", 1),)), Recipe("b", 1, (("a", 1),)), Recipe("c", 1, (("d", 1),))], {})
    assert book.depth == {"d": 0, "c": 1}
    assert book.goals((0, 1, 2)) == ["c"]
