"""What the model card says: true for the settings that made the model, and every number the one of its place."""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from card_inputs import NUMBER, changed, check_numbers, committed, expected_numbers, render, sentinels

from affine.envs.env import make
from affine.release.choose import ReleaseError
from affine.release.origins import BROUGHT, BROUGHT_IDS, GENERATED, origin
from affine.types import ENVS


def plain(card: str) -> str:
    return " ".join(card.split())


POLICY = {"source": "policy", "policy": "models/earlier", "policy_digest": "ab" * 32, "temperature": 0.9}


@pytest.mark.parametrize(
    ("sections", "said", "unsaid"),
    [
        (
            {},
            ["trained by supervised fine-tuning on expert play and then multi-turn PPO", "programmed experts",
             "expert's success", "generated programs", "generated catalogue", "**ppo**:"],
            ["earlier model", "brought by the user", "No demonstrations"],
        ),
        (
            {"collect": POLICY},
            ["supervised fine-tuning on an earlier model's own successes and then multi-turn PPO",
             "Demonstrations by an earlier model (the checkpoint `abababababab`, at temperature 0.9)",
             "tokens written by that model", "that model's success"],
            ["expert"],
        ),
        (
            {"sft": {"epochs": 0}},
            ["trained by multi-turn PPO in the environments, from its base's own policy on",
             "No demonstrations were learned from", "generated programs", "**ppo**:"],
            ["supervised fine-tuning", "expert", "**sft**:", "this is the base"],
        ),
        ({}, ["the nano model that comes with the pipeline"], ["`value_coef`", "`gamma`", "`lam`"]),
        ({"ppo": {"advantage": "gae", "group": 1}}, ["`value_coef` 0.5", "`gamma` 0.99", "`lam` 0.95"], []),
        (
            {"base": {"source": "pretrain", "make": ["nano"], "path": "models/pretrained"}},
            ["the nano model as the pipeline's stage `pretrain` makes it"],
            ["comes with"],
        ),
        (
            {"base": {"path": "somewhere/else"}},
            ["a checkpoint that does not come with the pipeline"],
            ["nano model", "somewhere"],
        ),
        (
            {"ppo": {"enabled": False}},
            ["trained by supervised fine-tuning on expert play, merged", "programmed experts", "**sft**:"],
            ["PPO", "**ppo**:", "after iteration"],
        ),
        (
            {"release": {"model": "sft"}},
            ["trained by supervised fine-tuning on expert play, merged"],
            ["PPO in the environments", "**ppo**:", "after iteration"],
        ),
        (
            {"release": {"model": "base"}},
            ["The starting checkpoint", "as asked for", "this is the base", "generated programs"],
            ["trained by", "expert", "## Training", "no trained model was supported"],
        ),
        (
            {"tasks": {"abd": {"levels": [6], "train": 9, "validation": 9, "test": 9}}},
            ["| abd | 6 | rows of the rl-python data set, brought by the user under its own terms, run in a sandbox |",
             "| ded | 0 | generated programs, run in a sandbox |"],
            [],
        ),
        (
            {"tasks": {"webshop": {"levels": [0, 7, 8], "train": 9, "validation": 9, "test": 9}}},
            ["| webshop | 0, 7, 8 | level 0: generated catalogue, after AgentGym's WebShop (MIT); level 7:"
             " WebShop's own products and synthetic goals, brought by the user under their own terms; level 8:"
             " WebShop's own products and human goals"],
            [],
        ),
        (
            {"tasks": {"webshop": {"levels": [1], "train": 9, "validation": 9, "test": 9,
                                   "test_ids": "affine-2025-11-17"}}},
            ["| webshop | 1; tested on upstream's ids `affine-2025-11-17` | level 1: generated catalogue",
             "level 7: WebShop's own products and synthetic goals"],
            [],
        ),
    ],
    ids=["default", "policy", "no-epochs", "group", "gae", "pretrain", "own-base", "no-ppo", "sft", "base",
         "rows", "shop", "ids"],
)  # fmt: skip
def test_card_says_how_the_model_was_made(
    tmp_path: Path, sections: dict[str, Any], said: list[str], unsaid: list[str]
) -> None:
    params = committed(tmp_path)
    if "tasks" in sections:
        sections = {"tasks": params.tasks.model_dump(mode="json") | sections["tasks"]}
    params = changed(params, sections)
    if not params.ppo.enabled:
        (tmp_path / "metrics/ppo.json").write_text('{"enabled": false}')
    card = plain(render(tmp_path, params))
    assert [text for text in said if text not in card] == []
    assert [text for text in unsaid if text in card.replace("Qwen3ForCausalLM", "")] == []


def test_base_that_nothing_beats_says_so(tmp_path: Path) -> None:
    params = committed(tmp_path)
    path = tmp_path / "metrics/pareto.json"
    pareto = json.loads(path.read_text())
    for model in ("sft", "ppo"):
        pareto[f"{model}_vs_base"]["worse"] = "sat"
    path.write_text(json.dumps(pareto))
    assert "released as it is: no trained model was supported" in plain(render(tmp_path, params))


def test_ppo_whose_every_iteration_was_worse_is_not_praised(tmp_path: Path) -> None:
    params = committed(tmp_path)
    path = tmp_path / "metrics/ppo.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"kept_iteration": 0}))
    card = plain(render(tmp_path, params))
    assert "No iteration of ppo played the validation tasks better" in card
    assert "expert play, merged into its base" in card


def test_origins_agree_with_the_environments() -> None:
    """A level's content is brought by the user exactly where its generator needs the user's data."""
    assert set(GENERATED) == set(ENVS)
    for name in ENVS:
        env = make(name)
        try:
            needing = {n for n, level in env.levels.items() if "(needs " in level.summary}
            listed = {level for owner, level in BROUGHT if owner == name}
            assert listed - {5} == needing if name == "alfworld" else listed == needing
            ranged = {found.level for found in env.id_ranges.values()}
            assert ranged & listed == ({BROUGHT_IDS[name]} if name in BROUGHT_IDS else set())
            assert name not in BROUGHT_IDS or len(ranged) == 1
        finally:
            env.close()
    assert origin("a-ninth", [0]) == "an environment of the user's own"
    assert origin("webshop", [3, 7, 4]).startswith("level 3, 4: generated catalogue")


# Numbers


def test_every_number_is_the_one_of_its_place(tmp_path: Path) -> None:
    params = sentinels(tmp_path)
    card = render(tmp_path, params)
    check_numbers(card, tmp_path, params)
    keys = defaultdict(set)
    for key, text in expected_numbers(tmp_path, params):
        keys[text].add(key)
    shared = {text: names for text, names in keys.items() if len(names) > 1 and float(text) > 9}
    # Only what two files both hold is alike; no other key could stand in for another.
    assert all({name.rpartition(".")[0].split(".")[0] for name in names} <= {"release", "evaluate", "scores"}
               for names in shared.values()), shared  # fmt: skip


def test_card_of_the_committed_metrics(tmp_path: Path) -> None:
    params = committed(tmp_path)
    check_numbers(render(tmp_path, params), tmp_path, params)


@pytest.mark.parametrize(
    "sections",
    [
        {"collect": POLICY},
        {"sft": {"epochs": 0}},
        {"ppo": {"advantage": "gae"}},
        {"release": {"model": "sft"}},
        {"release": {"model": "base"}},
    ],
)
def test_numbers_of_other_settings(tmp_path: Path, sections: dict[str, Any]) -> None:
    params = committed(tmp_path, **sections)
    path = tmp_path / "metrics/release.json"
    report = json.loads(path.read_text())
    model = sections.get("release", {}).get("model")
    if model:
        overall = json.loads((tmp_path / "metrics/evaluate.json").read_text())[model]["overall"]
        report |= {"model": model, "reason": f"asked for by name (overall score {overall:.2f})"}
        path.write_text(json.dumps(report))
    check_numbers(render(tmp_path, params), tmp_path, params)


def test_no_number_can_be_changed_or_exchanged_unnoticed(tmp_path: Path) -> None:
    """Each number of the committed card, changed in its last digit; each of the sentinels', with its neighbour."""
    real, alike = tmp_path / "real", tmp_path / "alike"
    params = committed(real)
    card = render(real, params)
    places = list(NUMBER.finditer(card))
    assert len(places) > 250
    for place in places:
        last = str((int(place[0][-1]) + 1) % 10)
        if card[place.start() - 1] == "`":  # a hash
            continue
        with pytest.raises(AssertionError):
            check_numbers(card[: place.end() - 1] + last + card[place.end() :], real, params)
    params = sentinels(alike)
    card = render(alike, params)
    places = list(NUMBER.finditer(card))
    for first, second in pairwise(places):
        between = card[first.end() : second.start()]
        if first[0] == second[0] or "`" in (card[first.start() - 1], card[second.start() - 1]):
            continue
        swapped = card[: first.start()] + second[0] + between + first[0] + card[second.end() :]
        with pytest.raises(AssertionError):
            check_numbers(swapped, alike, params)


def test_a_metric_that_is_missing_is_named(tmp_path: Path) -> None:
    params = committed(tmp_path)
    path = tmp_path / "metrics/dataset.json"
    data = json.loads(path.read_text())
    del data["all"]["agent_tokens"]
    path.write_text(json.dumps(data))
    with pytest.raises(ReleaseError, match=r"the metrics do not hold what the card needs.*agent_tokens"):
        render(tmp_path, params)
