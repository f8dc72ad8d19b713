"""One record of each published schema, with the traps that the sets hold. Written for the purpose."""

from __future__ import annotations

from typing import Any

MATH220K: dict[str, Any] = {
    "problem": "What is $1+1$?",
    "solution": "One and one make \\boxed{2}.",
    "answer": "2",
    "problem_type": "Algebra",
    "question_type": "math-word-problem",
    "source": "olympiads",
    "uuid": "abc",
    "is_reasoning_complete": [True, False, True],
    "generations": [
        "<think>\nI add.\n</think>\n\n\\boxed{3}",
        "<think>\nI add one and",
        "<think>\nOne, two.\n</think>\n\n\\boxed{2}",
    ],
    "correctness_math_verify": [False, False, True],
    "correctness_llama": None,
    "finish_reasons": None,
    "correctness_count": 1,
    "messages": [],
}
S1K: dict[str, Any] = {
    "solution": "128",
    "question": "How many?\r\nCount them.",
    "cot_type": "math",
    "source_type": "AI-MO/NuminaMath-CoT/aops_forum",
    "metadata": "{}",
    "gemini_thinking_trajectory": "I count 128.",
    "gemini_attempt": "\\boxed{128}",
    "deepseek_thinking_trajectory": "Let me count.\r\nIt is 127.",
    "deepseek_attempt": "\\boxed{127}",
    "gemini_grade": "Yes",
    "deepseek_grade": "No",
}
CODING: dict[str, Any] = {
    "source": "apps",
    "task_type": "verifiable_code",
    "in_source_id": "p1",
    "problem_statement": "Read n, print n squared.",
    "gold_standard_solution": "print(int(input())**2)",
    "problem_id": "vcp_1",
    "metadata": {"difficulty": "EASY", "time_limit": None},
    "verification_info": {
        "language": "python",
        "test_cases": [
            {"fn_name": None, "input": "3\n", "output": "9\n", "type": "stdin_stdout"},
            {"fn_name": None, "input": "-2\n", "output": "4\n", "type": "stdin_stdout"},
        ],
    },
}


def samples() -> dict[str, dict[str, Any]]:
    function = {"prompt": "def f(x):", "entry_point": "f", "canonical_solution": "    return 1"}
    return {
        "math220k": MATH220K,
        "s1k": S1K,
        "coding": CODING,
        "math": {"problem": "Find x.", "level": "Level 5", "type": "Algebra", "solution": "It follows that x is \\boxed{5}."},
        "gsm8k": {"question": "How many?", "answer": "3+4 = <<3+4=7>>7\n#### 7"},
        "humaneval": {**function, "task_id": "H/0", "test": "def check(candidate):\n    assert candidate(1) == 1"},
        "mbpp": {"text": "Add.", "code": "def f(x):\r\n    return 1", "task_id": 3, "test_setup_code": "", "test_list": ["assert f(1) == 1"], "challenge_test_list": []},
        "mbpp-plus": {**function, "task_id": "M/1", "assertion": "assert f(1) == 1", "base_input": [[1]], "plus_input": [], "atol": 0},
        "reasoning-gym": {"question": "1+1?", "answer": "2", "metadata": {"difficulty": 1, "source_dataset": "sum"}},
        "plain": {"prompt": "1+1?", "answer": "2", "guidance": "Add: 1+1 = 2.", "difficulty": 1, "task": "math", "source": "x"},
    }  # fmt: skip


def published(recipe: str) -> list[list[dict[str, Any]]]:
    """Forty records for each source of a recipe in configs/data, by the columns of the published set."""
    tiers = ["cn_contest", "aops_forum", "amc_aime", "olympiads", "olympiads_ref"]
    sums = [{
        "problem": f"What is {n}+{n}, written as a whole number?", "answer": str(2 * n), "source": tiers[n % 5],
        "solution": f"Twice {n} is {n}+{n}, so x is equal to \\boxed{{{2 * n}}}.",
    } for n in range(40)]  # fmt: skip
    bare = [{name: record[name] for name in ("problem", "solution")} for record in sums]
    valid = {"problem_is_valid": "Yes", "solution_is_valid": "Yes", "problem_type": "Algebra", "question_type": "MCQ"}
    if recipe == "ghpo-numinamath-s":
        more = [{**record, **valid, "problem": f"By heart: {record['problem']}"} for record in sums]
        return [bare, more]
    if recipe == "ghpo-math3to5":
        return [bare]
    if recipe == "g2rpo-a-math":
        thoughts = [f"<think>\nDouble it: {r['answer']}.\n</think>\n\nSo x is \\boxed{{{r['answer']}}}." for r in sums]
        return [[
            {**MATH220K, **record, "generations": ["<think>\nHm.\n</think>\n\nx is \\boxed{-1}.", "<think>\nLet", text]}
            for record, text in zip(sums, thoughts, strict=True)
        ]]  # fmt: skip
    if recipe == "g2rpo-a-code":
        return [[{
            **CODING, "problem_statement": f"Read n, print n squared, {'and again ' * n}.",
            "generations": [f"<think>\n{'Multiply. ' * (n + 1)}\n</think>\n```python\nn = int(input())\nprint(n * n)\n```"],
        } for n in range(40)]]  # fmt: skip
    if recipe == "s1k":
        return [[{
            **S1K, "question": record["problem"], "solution": record["answer"],
            "gemini_thinking_trajectory": f"I double it: {record['answer']}.",
            "gemini_attempt": f"So x is \\boxed{{{record['answer']}}}.",
        } for record in sums]]  # fmt: skip
    assert recipe == "gsm8k"
    return [[
        {"question": f"How many are {n} and {n}?", "answer": f"There are {n} of one kind and as many of the other.\nTogether these are {n}+{n} = <<{n}+{n}={2 * n}>>{2 * n}.\n#### {2 * n}"}
        for n in range(40)
    ]]  # fmt: skip
