"""Guidance inside chat templates, with and without thinking, on real tokenizers made here."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from guided_grpo.errors import InputError
from guided_grpo.guidance.allocation import plan_batch
from guided_grpo.guidance.placement import (
    GuidanceTokenizer,
    continuation_ids,
    opening,
    render,
    thinking_is_open,
    with_hint,
)
from guided_grpo.train.rollout import (
    Rollout,
    completions_for_training,
    logprobs_for_training,
    loss_weights,
    prompts_for_sampling,
)
from guided_grpo.types import Arm, Strength
from templates import CORPUS, PLAIN, PREFILLED, QWEN3, byte_level

USER = [{"role": "user", "content": "Add 3 and 4"}]


def sentencepiece_like() -> PreTrainedTokenizerFast:
    """Marks word starts with ▁ and puts one in front of every text, as Llama's first tokenizer does."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer.train_from_iterator(
        [*CORPUS * 3, "Add ( 3 and 4 )."],
        trainers.BpeTrainer(vocab_size=120, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False),
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize(
    ("template", "kwargs", "start", "is_open"),
    [
        (QWEN3, {}, "<think>\n", False),  # the policy opens the block itself
        (QWEN3, {"enable_thinking": True}, "<think>\n", False),
        (QWEN3, {"enable_thinking": False}, "", False),  # closed and empty: guidance is plain text
        (PREFILLED, {}, "", True),  # the template opened it
        (PLAIN, {}, "", False),
    ],
)
def test_thinking_blocks(template: str, kwargs: dict[str, Any], start: str, is_open: bool) -> None:
    tokenizer = byte_level(template)
    rendered = render(USER, tokenizer, kwargs)
    assert opening(rendered, tokenizer) == start
    assert thinking_is_open(rendered) is is_open
    assert opening(rendered, tokenizer, "none") == ""
    assert opening(rendered, tokenizer, "open") == ("" if is_open else "<think>\n")


def test_a_plain_prompt_of_a_thinking_model_gets_no_block() -> None:
    assert opening("Question: add 3 and 4\nAnswer:", byte_level(QWEN3)) == ""


@pytest.mark.parametrize("template", [QWEN3, PREFILLED, PLAIN])
def test_what_is_trained_on_reads_as_prompt_opening_guidance(template: str) -> None:
    tokenizer = byte_level(template)
    guide = GuidanceTokenizer(tokenizer, {}, "auto")
    row = {"prompt": USER, "guidance": "First add 3 and 4 to get 7.\nThen double it.", "guidance_limit": 27}
    plan = plan_batch([row] * 2, 0, [1.0, 0.0], lambda row: Strength("tokens", 1000), guide)
    rendered = render(USER, tokenizer, {})
    prompt_ids = list(tokenizer(rendered, add_special_tokens=False)["input_ids"])
    guided, unguided = prompts_for_sampling([prompt_ids, prompt_ids], plan)
    start = "<think>\n" if template == QWEN3 else ""
    assert tokenizer.decode(guided) == rendered + start + "First add 3 and 4 to get 7."
    assert unguided == prompt_ids
    assert [given.arm for given in plan] == [Arm.GUIDED, Arm.UNGUIDED]
    assert plan[0].slice.clipped
    assert not plan[1].slice.clipped


def test_the_opening_does_not_count_as_guidance_length() -> None:
    tokenizer = byte_level(QWEN3)
    guide = GuidanceTokenizer(tokenizer, {}, "auto")
    row = {"prompt": USER, "guidance": "First add 3 and 4 to get 7."}
    open_ids = tokenizer("<think>\n", add_special_tokens=False)["input_ids"]
    for amount in (0, 1, 5):
        plan = plan_batch([row], 0, [1.0], lambda row, a=amount: Strength("tokens", a), guide)
        assert len(plan[0].slice.ids) == (len(open_ids) + amount if amount else 0)


def test_word_start_markers_stand_as_in_place() -> None:
    """Tokenised alone, the text would begin with a ▁, a space that the policy never produces there."""
    tokenizer = sentencepiece_like()
    before, text = "Add (", "3 and 4)."
    joint = tokenizer(before + text, add_special_tokens=False)["input_ids"]
    ids = continuation_ids(before, text, tokenizer)
    prompt = tokenizer(before, add_special_tokens=False)["input_ids"]
    assert prompt + ids == joint
    assert ids != tokenizer(text, add_special_tokens=False)["input_ids"]


def test_a_merge_across_the_seam_falls_back_to_the_text_alone() -> None:
    tokenizer = byte_level(None)
    ids = continuation_ids("The answ", "er is 14.", tokenizer)
    assert tokenizer.decode(ids) == "er is 14."


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_the_plan_does_not_depend_on_the_number_of_ranks(ranks: int) -> None:
    """G = 6 on 24 rollouts: groups straddle ranks, and the places in the group stay the same."""
    guide = GuidanceTokenizer(byte_level(None), {}, "auto")
    rows = [{"prompt": f"p{i // 6}", "guidance": "First add 3." if i // 6 != 2 else None} for i in range(24)]
    local = 24 // ranks
    arms, wanted = [], []
    for rank in range(ranks):
        mine = rows[rank * local : (rank + 1) * local]
        plan = plan_batch(mine, rank * local, [1, 1, 0, 0, 0, 0], lambda row: Strength("tokens", 3), guide)
        arms += [given.arm for given in plan]
        wanted += [given.due for given in plan]
    group = [Arm.GUIDED] * 2 + [Arm.UNGUIDED] * 4
    assert arms == group + group + [Arm.UNGUIDED] * 6 + group  # the third problem has no trace
    assert wanted == ([True] * 2 + [False] * 4) * 4


def test_ids_weights_and_logprobs_stay_aligned() -> None:
    guide = GuidanceTokenizer(byte_level(None), {}, "auto")
    row = {"prompt": "p", "guidance": "add"}
    plan = plan_batch([row, row], 0, [1.0, 0.0], lambda row: Strength("tokens", 2), guide)
    given = list(plan[0].slice.ids)
    completions = completions_for_training([[91, 92], [93]], plan)
    assert completions == [[*given, 91, 92], [93]]
    rollouts = [Rollout(given, [1], ids, "", None, spent=0) for given, ids in zip(plan, completions, strict=True)]
    assert loss_weights(rollouts, 0.25) == [[0.25] * len(given) + [1.0, 1.0], [1.0]]
    assert logprobs_for_training([[-0.1, -0.2], [-0.3]], plan) == [[None] * len(given) + [-0.1, -0.2], [-0.3]]
    assert logprobs_for_training(None, plan) is None


WORDING = "\n The following text is the beginning part of the answer, which you can refer to for solving the problem:\n"


def test_a_hint_stands_in_the_users_turn_in_the_papers_words() -> None:
    system, user = {"role": "system", "content": "Think first."}, {"role": "user", "content": "Add 3 and 4"}
    turn = {"role": "user", "content": f"Add 3 and 4{WORDING}First"}
    assert with_hint([user], "First") == [turn]
    assert with_hint([system, user], "First") == [system, turn]
    earlier = [user, {"role": "assistant", "content": "7"}]
    assert with_hint([system, *earlier, user], "First") == [system, *earlier, turn]  # the last turn of the user
    assert user["content"] == "Add 3 and 4"  # the row stays as it is
    assert with_hint("Add 3 and 4", "First") == f"Add 3 and 4{WORDING}First"
    parts = [{"type": "text", "text": "Add 3 and 4"}]
    (message,) = with_hint([{"role": "user", "content": parts}], "First")
    assert message["content"] == [*parts, {"type": "text", "text": f"{WORDING}First"}]  # type: ignore[index]
    with pytest.raises(InputError, match="no message of the user"):
        with_hint([system], "First")


def test_a_template_is_filled_once_whatever_problem_and_hint_hold() -> None:
    assert (
        with_hint("{hint} {0}", r"\frac{problem}{2}", "Q: {problem} H: {hint}.")
        == r"Q: {hint} {0} H: \frac{problem}{2}."
    )


@pytest.mark.parametrize("template", [QWEN3, PREFILLED, PLAIN])
@pytest.mark.parametrize("messages", [USER, [{"role": "system", "content": "Think first."}, *USER]])
def test_a_hinted_chat_renders_with_the_hint_inside_the_user_turn(template: str, messages: Any) -> None:
    tokenizer = byte_level(template)
    guide = GuidanceTokenizer(tokenizer, {}, "auto", placement="hint")
    trace = "First add 3 and 4 to get 7.\nThen double it.\n"
    row = {"prompt": messages, "guidance": trace}
    piece = guide.slice(row, Strength("ratio-chars", 0.5))  # type: ignore[typeddict-item]
    assert piece.hint == trace[: len(trace) // 2]
    assert piece.ids == ()  # nothing in the completion, no thinking block
    assert piece.tokens == len(tokenizer(piece.hint, add_special_tokens=False)["input_ids"])
    plain, hinted = render(messages, tokenizer, {}), render(guide.prompt(messages, piece), tokenizer, {})
    assert hinted == plain.replace("Add 3 and 4", f"Add 3 and 4{WORDING}{piece.hint}")
    assert guide.length(messages, piece) == len(tokenizer(hinted, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize(
    ("unit", "amount", "text"),
    [
        ("ratio-chars", 0.25, "One two. T"),
        ("ratio-steps", 0.25, "One two. "),  # a quarter of four sentences
        ("ratio-steps", 0.1, "One two. "),  # never less than one
        ("ratio-steps", 0.6, "One two. Three four! "),  # 2.4: the nearest
        ("ratio-steps", 0.625, "One two. Three four! Five 6.5? "),  # 2.5
        ("ratio-steps", 1.0, "One two. Three four! Five 6.5? Seven eight."),
    ],
)
def test_a_share_of_characters_or_of_whole_sentences(unit: Any, amount: float, text: str) -> None:
    trace = "One two. Three four! Five 6.5? Seven eight."
    assert len(trace) == 43
    guide = GuidanceTokenizer(byte_level(None), {}, "auto", placement="hint")
    assert guide.slice({"prompt": "p", "guidance": trace}, Strength(unit, amount)).hint == text


def test_a_share_of_tokens_ends_where_a_token_ends() -> None:
    trace, tokenizer = "First add 3 and 4 to get 7.", byte_level(None)
    ids = tokenizer(trace, add_special_tokens=False)["input_ids"]
    guide = GuidanceTokenizer(tokenizer, {}, "auto", placement="hint")
    for share in (0.1, 0.3, 0.5, 0.9, 1.0):
        piece = guide.slice({"prompt": "p", "guidance": trace}, Strength("ratio", share))
        assert piece.hint == tokenizer.decode(ids[: int(share * len(ids) + 1e-9)])
        assert piece.tokens == int(share * len(ids) + 1e-9)


def test_a_hint_never_states_the_answer_and_never_cuts_its_last_line() -> None:
    trace = "Add them.\nThat is 7, so the answer is 7."
    row = {"prompt": "p", "guidance": trace, "guidance_limit": trace.index("7,")}
    for unit, text in (("ratio-steps", "Add them.\n"), ("ratio-chars", "Add them.\nThat is ")):
        piece = GuidanceTokenizer(byte_level(None), {}, "auto", placement="hint").slice(row, Strength(unit, 1.0))  # type: ignore[arg-type, typeddict-item]
        assert (piece.hint, piece.clipped, piece.leaked) == (text, True, False)
        leaky = GuidanceTokenizer(byte_level(None), {}, "auto", placement="hint", leak=True)
        assert leaky.slice(row, Strength(unit, 1.0)).leaked  # type: ignore[arg-type, typeddict-item]
