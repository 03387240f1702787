"""Requirements on the chat template: it renders what was said and opens the reply, and nothing else.

A template that solves tasks or begins the answer earned its miner a permanent exclusion in 2026. Here it is rendered
over chats worded like every environment's: behind the last thing the user said may stand only what ends that turn and
what opens the reply, and that must be the same for every chat.
"""

from __future__ import annotations

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from affine.models.checkpoint import BROKEN, first_line
from affine.release.lines import Line, Status, Submission, line

LONGEST_2026 = 100_000
"""Characters of a chat template, 2026. There was no limit in 2025."""

NAME = "chat template loads without remote code and is sane"

ROLES = ("assistant", "model")
"""What a reply's opening may hold beside tokens of the tokenizer's own."""

MOST_ADDED = 1000
"""Characters of its own (a system message, marks) that a template may add to a chat."""

_QUESTIONS = (
    "the question",
    "Find an assignment that satisfies (x1 ∨ ¬x2) ∧ (x2 ∨ x3). Answer like x1=True, x2=False, or UNSAT.",
    "Program:\n```python\nprint(int(input()) + 1)\n```\nExpected output:\n8\nGive the input inside <INPUT> </INPUT>.",
    "Write a complete Python 3 program that reads n from STDIN and prints n squared, in one ```python block.",
    "WebShop [SEP] Instruction: [SEP] i need a blue shirt, price lower than 30.00 dollars [SEP] Search",
    "Interact with a household to solve a task. Your task is to: put a mug in drawer. AVAILABLE ACTIONS: look",
    "Your goal is to go to the red ball. In front of you, you can see a red ball 1 step away.",
    "Your task is to boil water. You are in the kitchen, in which there is a stove, a sink and a cupboard.",
    "Crafting commands: craft 4 oak planks using 1 oak log. Goal: craft oak planks.",
)

CHATS: tuple[list[dict[str, str]], ...] = (
    *([{"role": "user", "content": question}] for question in _QUESTIONS),
    [
        {"role": "user", "content": "You play a game. Reply with Thought: and Action:."},
        {"role": "assistant", "content": "Thought: I see.\nAction: look"},
        {"role": "user", "content": "You see a door. It is closed."},
    ],
)
"""What templates are rendered over."""


def template_2025(s: Submission) -> Line:
    return _template(s, None)


def template_2026(s: Submission) -> Line:
    return _template(s, LONGEST_2026)


def _template(s: Submission, longest: int | None) -> Line:
    try:
        tokenizer = AutoTokenizer.from_pretrained(s.release, local_files_only=True, trust_remote_code=False)
        source = str(tokenizer.chat_template or "")
        faults = [fault for chat in CHATS if (fault := _fault(tokenizer, chat))]
        frames = {_frame(tokenizer, chat) for chat in CHATS}
    except BROKEN as error:
        return Line(NAME, Status.FAIL, f"it does not load or render: {first_line(error)}")
    if longest is not None and len(source) > longest:
        return Line(NAME, Status.FAIL, f"{len(source)} characters; at most {longest} are allowed")
    if faults:
        return Line(NAME, Status.FAIL, f"{faults[0]} (in {len(faults)} of {len(CHATS)} chats)")
    seen = f"{len(source)} characters, nothing added to {len(CHATS)} chats"
    return line(NAME, len(frames) == 1, seen, "it opens the chat or the reply in other ways for other chats")


def _fault(tokenizer: PreTrainedTokenizerBase, chat: list[dict[str, str]]) -> str:
    """What is wrong with one rendered chat; empty where nothing is."""
    text = _render(tokenizer, chat, opened=True)
    place = 0
    for message in chat:
        found = text.find(message["content"], place)
        if found < 0:
            return f"it drops or changes what the {message['role']} said: {message['content'][:40]!r}"
        place = found + len(message["content"])
    if len(text) - sum(len(message["content"]) for message in chat) > MOST_ADDED:
        return f"it adds more than {MOST_ADDED} characters of its own"
    left = text[place:]
    for token in sorted(tokenizer.get_added_vocab(), key=len, reverse=True):
        left = left.replace(token, " ")
    words = left.split()
    if len(words) > 1 or any(word.strip(":").lower() not in ROLES for word in words):
        return f"behind the user's last words it adds {' '.join(words)[:60]!r} of its own"
    return ""


def _frame(tokenizer: PreTrainedTokenizerBase, chat: list[dict[str, str]]) -> tuple[str, str]:
    """What the template puts before the first message, and where the reply begins."""
    closed, opened = (_render(tokenizer, chat, opened=value) for value in (False, True))
    return opened.partition(chat[0]["content"])[0], opened.removeprefix(closed)


def _render(tokenizer: PreTrainedTokenizerBase, chat: list[dict[str, str]], *, opened: bool) -> str:
    return str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=opened))
