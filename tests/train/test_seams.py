"""Contract with TRL: what trainer.py relies on. A failure here means that TRL moved, and says where."""

from __future__ import annotations

import inspect
from importlib.metadata import version

import pytest
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import RepeatSampler

from guided_grpo.data.curriculum import OrderedRepeatSampler
from guided_grpo.train.seams import SEAMS


def test_trl_is_the_minor_version_whose_internals_are_used() -> None:
    assert version("trl").startswith("1.16."), f"trainer.py was written against TRL 1.16, found {version('trl')}"


@pytest.mark.parametrize("name", SEAMS)
def test_seam_has_the_parameters_that_we_pass_through(name: str) -> None:
    method = getattr(GRPOTrainer, name, None)
    assert method is not None, f"TRL's GRPOTrainer no longer has {name}; adapt the seam in trainer.py"
    found = tuple(p for p in inspect.signature(inspect.unwrap(method)).parameters if p != "self")
    assert found == SEAMS[name], f"TRL's GRPOTrainer.{name} now takes {found}; adapt the seam in trainer.py"


@pytest.mark.parametrize(
    ("method", "text", "meaning"),
    [
        ("_generate", "return prompt_ids, completion_ids, tool_mask, completions", "order of what _generate returns"),
        ("_compute_loss", 'mask = completion_mask if "tool_mask" not in inputs', "tool_mask multiplies the loss mask"),
        ("_generate_and_score_completions", "num_items_in_batch = self.accelerator.gather(loss_mask.sum()).sum()", "the normaliser of dapo counts weights"),
        ("_generate_and_score_completions", '"advantages": advantages', "advantages of the local batch, by name"),
        ("_generate_and_score_completions", "float(\"nan\") if x is None else x", "None marks tokens the sampler did not draw"),
        ("_prepare_inputs", "self._buffered_inputs[self._step % self.args.steps_per_generation]", "the buffer and its counter"),
        ("_prepare_inputs", "self._step % generate_every == 0 or self._buffered_inputs is None", "when a batch is sampled"),
        ("_calculate_rewards", "rewards_per_func = gather(rewards_per_func)", "rewards come back for all ranks"),
        ("log", "for key, val in self._metrics[mode].items()", "TRL's metrics are lists of floats"),
    ],
)  # fmt: skip
def test_source_still_says(method: str, text: str, meaning: str) -> None:
    source = inspect.getsource(inspect.unwrap(getattr(GRPOTrainer, method)))
    assert text in source, f"TRL changed {method}: {meaning}; look at trainer.py"


@pytest.mark.parametrize("field", ["steps_per_generation", "generation_batch_size", "shuffle_dataset", "scale_rewards"])
def test_config_fields_that_we_read(field: str) -> None:
    assert field in GRPOConfig.__dataclass_fields__, f"GRPOConfig lost {field}; adapt trainer.py"


def test_sampler_lays_out_batches_as_trl_does() -> None:
    theirs = RepeatSampler(range(11), mini_repeat_count=3, batch_size=4, repeat_count=2, shuffle=False)
    ours = OrderedRepeatSampler(
        lambda epoch: list(range(11)), rows=11, mini_repeat_count=3, batch_size=4, repeat_count=2
    )
    assert list(ours) == list(theirs)
    assert len(ours) == len(theirs)
