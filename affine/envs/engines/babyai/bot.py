"""minigrid's BabyAI bot, made to start in the middle of an episode and never to think for ever.

Four additions to `minigrid.utils.baby_ai_bot.BabyAIBot`: finished parts of the instruction are not done again;
things carried at the start are used or put down first; a key hidden in a box is fetched by opening the box; and the
subgoals stacked up within one decision are bounded, because on some layouts the bot goes round in circles.
"""

from __future__ import annotations

from typing import Any

from minigrid.envs.babyai.core.verifier import AfterInstr, ObjDesc, OpenInstr, PutNextInstr
from minigrid.utils.baby_ai_bot import BabyAIBot, DropSubgoal, GoNextToSubgoal, Subgoal

_SUBGOALS_PER_DECISION = 400


class _Stack(list[Any]):
    """A list that counts what is pushed. Raises RecursionError past the bound."""

    pushed = 0

    def append(self, item: Any) -> None:
        self.pushed += 1
        if self.pushed > _SUBGOALS_PER_DECISION:
            raise RecursionError("the bot's subgoals go round in circles")
        super().append(item)


class _OpenBoxSubgoal(Subgoal):  # type: ignore[misc]  # minigrid has no types
    def replan_before_action(self) -> Any:
        return self.actions.toggle

    def replan_after_action(self, action_taken: Any) -> None:
        if action_taken == self.actions.toggle:
            self.bot.stack.pop()


class PlanningBot(BabyAIBot):  # type: ignore[misc]
    """The bot for a world in any state. Raises what the bot raises (AssertionError, IndexError, TypeError) where it
    has no plan, and RecursionError where it would not stop planning."""

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self.stack: _Stack = _Stack(self.stack)
        self._process_obs()
        first = pending(world.instrs)[:1]
        self._free_hands(world, first)
        self._open_key_box(world, first)

    def replan(self, action_taken: Any = None) -> Any:
        self.stack.pushed = 0
        return super().replan(action_taken)

    def _process_instr(self, instr: Any) -> None:
        for part in reversed(pending(instr)):
            super()._process_instr(part)

    def _free_hands(self, world: Any, first: list[Any]) -> None:
        if world.carrying is None:
            return
        if first and isinstance(first[0], PutNextInstr) and _among(world.carrying, first[0].desc_move.obj_set):
            for _ in range(2):  # fetching it is done: take "go there" and "pick up" off the stack
                self.stack.pop()
            return
        if first and isinstance(first[0], OpenInstr) and world.carrying.type == "key":
            doors = [door for door in first[0].desc.obj_set if door.is_locked]
            if any(door.color == world.carrying.color for door in doors):
                return
        spot = self._find_drop_pos()
        self.stack.append(DropSubgoal(self))
        self.stack.append(GoNextToSubgoal(self, spot))

    def _open_key_box(self, world: Any, first: list[Any]) -> None:
        if not first or not isinstance(first[0], OpenInstr):
            return
        cells = [cell for cell in world.grid.grid if cell is not None]
        locked = {door.color for door in first[0].desc.obj_set if door.is_locked}
        keys = {cell.color for cell in [*cells, world.carrying] if cell is not None and cell.type == "key"}
        for box in cells:
            if box.type == "box" and box.contains is not None and box.contains.color in locked - keys:
                desc = ObjDesc("box", box.color)
                desc.find_matching_objs(world)
                self.stack.append(_OpenBoxSubgoal(self))
                self.stack.append(GoNextToSubgoal(self, desc))
                return

    def _check_erroneous_box_opening(self, action: Any) -> None:
        """Opening a box is part of the plan here."""


def pending(instr: Any) -> list[Any]:
    """The unfinished simple instructions of `instr`, in the order in which they are to be done."""
    if not hasattr(instr, "instr_a"):
        return [instr]
    parts = [(instr.instr_a, instr.a_done), (instr.instr_b, instr.b_done)]
    if isinstance(instr, AfterInstr):
        parts.reverse()
    return [simple for part, done in parts if done != "success" for simple in pending(part)]


def _among(thing: Any, things: list[Any]) -> bool:
    return any(thing is other for other in things)
