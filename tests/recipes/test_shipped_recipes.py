"""Each shipped recipe computes the same in every mode and on two replicas, and goes on from a checkpoint as if nothing had been."""

from __future__ import annotations

import pytest

from modetrain.checkpoints import file
from modetrain.files import run_folder

# Small enough for a test.
RECIPES = {
    "vae": ["data.source=bundled", "data.batch_size=8", "model.hidden=16"],
    "actor_critic": ["data.batch_size=4", "model.hidden=8", "recipe.horizon=12"],
    "segment": ["data.examples=64", "data.size=28", "data.batch_size=4", "model.filters=[4,4]"],
    "contrastive": ["data.source=bundled", "data.batch_size=8", "model.filters=[4]", "model.size=4"],
    "lm": ["data.modules=heapq", "data.window=16", "data.batch_size=4", "model.width=16", "model.heads=2"],
    "tabular": ["data.batch_size=16"],
}
# No rate that is a function of the length of the run, which differs here.
SMALL = ["optimizer.schedule=constant", "optimizer.warmup=0", "data.eval_batch_size=16", "data.eval_batches=2"]
TWO = ["mode=mirrored", "mode.devices=cpu", "mode.replicas=2"]


@pytest.fixture
def run(cli):
    def results(name, folder, *more, steps=4):
        done = cli.run(f"recipe={name}", *SMALL, *RECIPES[name], f"steps={steps}", *more, folder=f"{name}/{folder}")
        assert done.code == 0, done.err
        return done.json["results"]

    return results


def test_a_backbone_is_frozen_and_then_moves(cli, run):
    """It begins where `contrastive` ended: with the same commands as in the recipe's file."""
    run("contrastive", "backbone", "mode=graph", steps=2)
    begin = ["init_from.path=contrastive/backbone", *RECIPES["contrastive"], "mode=graph"]

    def backbone(*more, folder, steps):
        words = ["recipe=finetune", *SMALL, *begin, f"steps={steps}", *more]
        done = cli.run(*words, folder=f"finetune/{folder}")
        assert done.code == 0, done.err
        kept = file.load(run_folder.newest(done.folder)).arrays
        return {name: value for name, value in kept.items() if name.startswith("model/")}

    first = file.load(run_folder.newest(cli.cwd / "contrastive/backbone")).arrays
    frozen = backbone("recipe.frozen=2", folder="frozen", steps=2)
    assert all((first[name] == value).all() for name, value in frozen.items())
    moved = backbone("recipe.frozen=1", folder="moved", steps=2)
    assert not any((first[name] == value).all() for name, value in moved.items())
    refused = cli.run("recipe=finetune", "data.source=bundled", folder="finetune/none")
    assert (refused.code, "recipe=contrastive run_dir=runs/backbone" in refused.err) == (2, True)


def assert_alike(found, wanted):
    for split in ("train", "eval"):
        wanted[split].pop("grad_norm", None)  # of watched steps, which the length of the run decides
        found[split].pop("grad_norm", None)
        assert found[split] == pytest.approx(wanted[split], rel=2e-3, abs=1e-4)


@pytest.mark.parametrize("name", RECIPES)
def test_two_replicas_that_are_resumed_compute_what_eager_computes(run, name):
    wanted = run(name, "eager", "mode=eager")
    run(name, "two", *TWO, steps=2)
    assert_alike(run(name, "two", *TWO, "resume=latest"), wanted)


@pytest.mark.long
@pytest.mark.parametrize("name", RECIPES)
def test_every_mode_agrees_and_a_resumed_run_is_the_same_to_the_bit(run, name):
    wanted = run(name, "line-by-line", "mode=eager")
    for mode in ("graph", "xla"):
        whole = run(name, mode, f"mode={mode}")
        assert_alike(whole, wanted)
        run(name, f"{mode}-part", f"mode={mode}", steps=2)
        resumed = run(name, f"{mode}-part", f"mode={mode}", "resume=latest")
        assert resumed["state_digest"] == whole["state_digest"]


@pytest.mark.long
@pytest.mark.parametrize("name", ["finetune", "gan", "mnist", "seq2seq", *RECIPES])
def test_inspect_finds_nothing_in_a_recipe_as_it_is_shipped(name, cli):
    words = [f"recipe={name}"]
    if name == "finetune":
        assert cli.run("recipe=contrastive", "steps=2", folder="backbone").code == 0
        words.append("init_from.path=backbone")
    done = cli.run(*words, "do=inspect", folder=f"inspected/{name}")
    assert (done.code, done.out.splitlines()[-1]) == (0, "inspect: nothing found for target=graph"), done.out
