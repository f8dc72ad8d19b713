"""Stage 2b, the plan: what each rollout of a batch is given, and what its problem may climb to later.

`guidance/` says how much, which part and which place; here stands what that takes of a run: where its controller is,
the problem histories, and how many tokens the policy can read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from guided_grpo.guidance.allocation import GuidancePlan, plan_batch, shares, with_whole_traces
from guided_grpo.guidance.placement import GuidanceTokenizer
from guided_grpo.guidance.slicing import NO_SLICE, SHARES, Slice
from guided_grpo.guidance.strength import Controller
from guided_grpo.train.resampling import Ladder
from guided_grpo.train.state import RunState
from guided_grpo.types import Row, Strength

if TYPE_CHECKING:
    from guided_grpo.train.config import GuidedGRPOConfig


class Planner:
    """What rollouts can be given in this run.

    Args:
        config: the method.
        controller: of its strength.
        run: where the controller stands, and the problem histories.
        tokenizer: of the policy.
        template_kwargs: of its chat template.
        context: tokens that the policy can read; None = no bound.
    """

    def __init__(
        self,
        config: GuidedGRPOConfig,
        controller: Controller,
        run: RunState,
        tokenizer: Any,
        template_kwargs: dict[str, Any],
        context: int | None,
    ) -> None:
        self.tokenizer = GuidanceTokenizer(
            tokenizer,
            template_kwargs,
            config.guidance_thinking,
            placement=config.guidance_placement,
            template=config.hint_template,
            leak=config.guidance_leak,
        )
        self.room = math.inf if context is None else context - int(config.max_completion_length or 0)
        size = int(config.num_generations or 0)
        shares_G = shares(size, config.guidance_ratio, config.guidance_allocation)
        self.first_shares_G = shares_G if config.guides_first else [0.0] * size
        self.ladder = Ladder(
            config,
            shares_G,
            self.tokenizer,
            run.history,
            share=SHARES[config.rescue_slice],
            full=self.strength_of,
            room=self.room,
        )
        self.controller, self._config, self._run, self._end = controller, config, run, tokenizer.eos_token_id

    def plan(self, rows_b: Sequence[Row], first: int) -> GuidancePlan:
        """Of the first sampling; `first` is the global index of `rows_b[0]`."""
        plan = plan_batch(rows_b, first, self.first_shares_G, self.strength_of, self.tokenizer)
        count = self._config.guidance_rows
        if not count:
            return plan
        return with_whole_traces(plan, rows_b, first, len(self.first_shares_G), count, self.whole_trace)

    def strength_of(self, row: Row) -> Strength:
        """The full strength of a problem now; of `{}` that of no problem in particular."""
        return self.controller.strength(self._run.controller, row)

    def whole_trace(self, row: Row) -> Slice:
        """The trace with its answer and its end, where there is one that fits."""
        piece = self.tokenizer.whole(row, self._config.trace_answer, self._end)
        longest = self.room + int(self._config.max_completion_length or 0)
        return piece if self.tokenizer.length(row["prompt"], piece) <= longest else NO_SLICE

    def ladder_is_open(self, step: int) -> bool:
        """Whether problems may climb at this optimizer step: not before the cold start is over."""
        if self._config.rescue_cold_format is not None:
            return self._config.rescues and self._run.cold_start_over
        return self._config.rescues and step >= self._config.rescue_cold_start
