r"""The maths verifier: does a response declare the gold answer?

In this order, and each step only where the one before cannot decide: the same text; the same exact rational number
(no tolerance, `exact.py`); the same words; the same list, tuple, matrix or set, element by element; the same set of
reals (`regions.py`); the same value at every point (`numerics.py`); and at last math-verify, which sees one cleaned
expression, never a whole response (`symbolic.py`). What could stall it is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from types import ModuleType
from typing import Any

from guided_grpo.grading.answers import choice_of, clean, declared_answer, split_outside
from guided_grpo.grading.exact import MAX_CHARS, LimitError, TimeLimitError, UnparseableError, check_limits, exact_value
from guided_grpo.grading.numerics import UnreadError, near, number, ratio, read, same_curve, same_value
from guided_grpo.grading.regions import looks_like_region, read_region
from guided_grpo.grading.remarks import for_all, spelled, without_remark
from guided_grpo.grading.units import in_degrees, in_radians, modulus_of, plain, unit_of
from guided_grpo.types import Status, Verdict

MAX_ELEMENTS = 64  # of a list, tuple or set
MAX_WORDS = 4  # of an answer in words

_SEPARATOR = re.compile(
    r",|;|\\(?:text|textrm|mbox)\{\s*,?\s*(?:or|and)\s*\}|\\(?:lor|vee)(?![a-zA-Z])|(?<![a-zA-Z])(?:or|and)(?![a-zA-Z])"
)
_CASE = re.compile(r";|\\(?:text|textrm|mbox)\{\s*,?\s*or\s*\}|\\(?:lor|vee)(?![a-zA-Z])|(?<![a-zA-Z])or(?![a-zA-Z])")
_NAME = re.compile(  # x, x_1, \alpha, f(x), f^{-1}(x), P(A), |AB|, [ABC], (x, y), \angle A, \text{Area}, "Total cost"
    r"(?:\\[a-zA-Z]+|[a-zA-Z])(?:_\w+|_\{[^{}]*\})?'?(?:\^\{-1\})?"
    r"(?:\((?:[^()=<>]|\([^()=<>]*\))*\))?|\\text\{[^{}]*\}|[A-Za-z ]+"
    r"|\([a-z](?:,\s*[a-z])+\)|\[[A-Z]+\]|\|[A-Z]+\||\\[a-zA-Z]+\s*\{?[A-Z]+\}?"
)
_RELATION = re.compile(r"[<>=]|\\(?:le|leq|ge|geq|ne|neq|equiv|approx)(?![a-zA-Z])")
_EQUALS = re.compile(r"=|\\(?:equiv|approx|to)(?![a-zA-Z])|(?<=[a-zA-Z]) is (?=\S)")
_SIDES = re.compile(r"[<>=:]|\\(?:le|ge|ne)(?![a-zA-Z])")
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mbox|operatorname)\s*\{([^{}]*)\}")
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\s*\{\w+\*?\}")
_SET = re.compile(r"\\(?:cup|cap|setminus|infty|mathbb)(?![a-zA-Z])")
_CALCULUS = re.compile(r"\\(?:(?:int|iint|oint|lim|sum|prod|infty)(?![a-zA-Z])|begin\s*\{[vV]matrix)")
_HALF_OF_DAY = re.compile(r"\d\s*(?:\\text\{)?\s*([ap]m)\b", re.IGNORECASE)
_TWENTY_FOUR = re.compile(r"\b(1[3-9]|2[0-3])\s*:\s*(\d\d)\b")
_POINT = re.compile(r"^[A-Z](?=\([^()]*,[^()]*\)$)")  # A(1,2)
_DECIMAL = re.compile(r"-?\d{1,15}(?:\.\d{1,15})?", re.ASCII)
_MATRIX = re.compile(
    r"[(\[]?\s*\\begin\s*\{(p|b|small)?(?:matrix|array)\}(?:\{[lcr|]*\})?(.*)"
    r"\\end\s*\{(?:p|b|small)?(?:matrix|array)\}\s*[)\]]?",
    re.DOTALL,
)
_TRANSPOSED = re.compile(r"(?<=[)}\]])\s*\^\s*\{?\s*(?:T|\\top|\\(?:text|mathrm)\{T\})\s*\}?$")
_FACTOR = re.compile(
    r"(?![(\[]\s*\\begin)((?:[^\\&]|\\(?:frac|sqrt|pi|cdot|times)(?![a-zA-Z]))+?)\s*(?:\\cdot|\\times)?\s*(?=\\begin|[(\[]\s*\\begin)"
)
_BASED = re.compile(  # 1011_2, (D0)_{16}, \text{D0}_{16}
    r"(?:\\(?:text|mathrm)\{)?\(?(\d[0-9A-F]*|[A-F][0-9A-F]*\d[0-9A-F]*)\)?\}?\s*_\{?(\d+|\\text\{\w+\})\}?"
)
_HENCE = re.compile(
    r"\\(?:Rightarrow|Longrightarrow|Leftrightarrow|Longleftrightarrow|implies|iff|therefore)(?![a-zA-Z])|[⇒⟹∴]"
)
_CHOOSE = re.compile(r"(?<![a-zA-Z\\])C\(([^(),]+),([^(),]+)\)(?!\s*=)")
_FUNCTION = re.compile(r"([a-zA-Z]'?)\(([a-z])\)\s*=")
_BASE_TEN = re.compile(r"\\log\s*_\s*\{\s*10\s*\}|\\lg(?![a-zA-Z])")
_BARE_LOG = re.compile(r"\\log(?![a-zA-Z])(?!\s*[_^])")
_LETTER = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\{\s*\(?[A-Z]\)?\s*\}|\(?[A-Z]\)?")  # a gold that is a choice
_CLOCK = re.compile(r"\d{1,2}\s*:\s*\d\d")
_SAME_WORDS = {
    "dne": "does not exist", "none": "no solution", "empty set": "no solution", "emptyset": "no solution",
    "infinity": "infty",
}  # fmt: skip
_NOUNS = {  # adjectives that say the same with and without a noun that they describe anyway
    "functions? sequences? maps? mappings?": "even odd increasing decreasing monotone monotonic constant bounded "
    "unbounded continuous discontinuous periodic differentiable linear quadratic cubic exponential injective "
    "surjective bijective concave convex convergent divergent arithmetic geometric",
    "numbers? integers? permutations? values?": "even odd prime composite rational irrational positive negative "
    "imaginary complex",
    "series progressions? integrals?": "convergent divergent arithmetic geometric harmonic",
    "triangles?": "acute obtuse right isosceles equilateral scalene",
    "angles?": "acute obtuse right reflex",
    "lines?": "parallel perpendicular skew intersecting",
    "matrix matrices": "invertible singular symmetric diagonal orthogonal",
    "events? vectors?": "independent dependent",
    "systems?": "consistent inconsistent",
}
_DESCRIBED = re.compile(
    "|".join(rf"(?:{'|'.join(words.split())}) (?:{'|'.join(nouns.split())})" for nouns, words in _NOUNS.items())
)
_TRUTHS = ("yes", "no", "true", "false")
_CONDITION = r"\d|\b(?:yes|not?|true|false|but|if|unless|or|only|except|maybe|perhaps|sometimes|when|n't)\b|n't"
_ROUNDED = re.compile(  # \sqrt2 \approx 1.41, \sqrt2 = 1.4142\ldots
    r"(.+?)\s*(?:\\approx\s*(-?\d+(?:\.\d+)?)|(?:=|\\approx)\s*(-?\d+\.\d+)\s*(?:\.\.\.|…|\\[lc]?dots))"
)
_STATUS: dict[type[Exception], Status] = {
    LimitError: Status.RESOURCE,
    UnparseableError: Status.UNPARSEABLE,
    TimeLimitError: Status.TIMEOUT,
}
_MONTH = re.compile(r"\b(?:jan|feb|mar|apr|may|june?|july?|aug|sept?|oct|nov|dec)[a-z]*\b")
_IN_PARTS = re.compile(r"\d\s*(?:ft|in|h|hrs?|min|sec|lbs?|oz|yd|mi|km|cm|mm|kg)\b\.?,?\s+(?:and )?\d")  # 6 ft 2 in
_ANTIDERIVATIVE = re.compile(r"\\int(?![a-zA-Z])(?!\s*(?:\\limits\s*)?_)")
_TO_INFINITY = re.compile(r"(?:[_^]|\\to)\s*\{?\s*[+-]?\\infty(?![a-zA-Z])\s*\}?")
_SIGNS = re.compile(r"\\pm(?![a-zA-Z])")
_DENIED = re.compile(
    r"\b(?:not|no(?!\.)|never|isn|wrong|incorrect|false|neither|nor|except|unless|less|more)\b", re.IGNORECASE
)
_WHOLE = re.compile(  # "…, k \in \mathbb{Z}", "… (n \in \mathbb{N})", "…, where k is an integer", "… for any integer n"
    r"(?:[\s,(]+|(?=\\text))(?:\\text\{[\s,]*(?:where|for|with)(?: any| all| some)?\s*\}\s*)?([a-z])\s*"
    r"(?:\\in\s*\\mathbb\{([ZN])\}|\\text\{\s*is an(?:y)? integer\s*\})\s*\)?$"
    r"|(?:[\s,(]+|(?=\\text))\\text\{[\s,]*(?:where|for|with)?(?: any| all| some)? ?integers?\s*\}\s*([a-z])\s*\)?$"
)
_REALS = re.compile(r",\s*\(?\s*(?:\\text\{\s*where\s*\}\s*)?([a-zA-Z])\s*\\in\s*\\mathbb\{R\}\s*\)?$")
_INTEGRATION = re.compile(r"\+\s*([cCkK]|C_[01]|\\text\{\s*(?:const(?:ant)?\.?|C)\s*\})$")
_DIGITS_ONLY = re.compile(r"\\text\{[\d\s.]*\}|e|i|\\pi")
_BINOMIAL = re.compile(r"^\\binom\{(\d+)\}\{(\d+)\}$")
_FREE_FACTOR = re.compile(
    r"([a-zA-Z](?:\([a-z]\))?\s*=\s*)?([A-Zck])_?[01]?\s*(?:\\cdot\s*)?(?=e\s*\^|\\exp(?![a-zA-Z]))"
)
Algebra = Callable[[], ModuleType]  # gives symbolic.py, or refuses
_NOTHING = {"nan", "null", "none", "n/a", "na", "inf"}  # what a missing value looks like after str()


class _NeedsAlgebraError(Exception):
    """Neither text nor exact arithmetic decides."""


def _algebra() -> ModuleType:
    """math-verify, imported when it is first needed: that takes a second."""
    from guided_grpo.grading import symbolic

    return symbolic


def _no_algebra() -> ModuleType:
    raise _NeedsAlgebraError


def check_maths(response: str, gold: str, *, lenient: bool = False) -> Verdict:
    """Grade `response` against `gold`: a pure function of its arguments.

    Args:
        response: what the policy wrote, thinking included.
        gold: the right answer, one that `parse_gold` takes.
        lenient: False = only a declared answer counts; True = else the last number of the response.
    """
    answer = declared_answer(response, lenient=lenient)
    return undeclared() if answer is None else compare(answer, gold)


def undeclared() -> Verdict:
    """The verdict on a response that declares nothing."""
    return Verdict(Status.NO_ANSWER, None, "no answer is declared")


def compare(answer: str, gold: str, algebra: Algebra = _algebra) -> Verdict:
    """Grade a declared answer; where algebra is needed this may take seconds."""
    if len(answer) > MAX_CHARS:
        return Verdict(Status.RESOURCE, answer[:MAX_CHARS], f"{len(answer)} characters, more than {MAX_CHARS}")
    if not gold.strip():
        return Verdict(Status.INFRA_ERROR, answer, "the gold answer is empty")
    try:
        if not answer.isascii() and any(char.isdigit() and not char.isascii() for char in clean(answer)):
            raise UnparseableError("digits of another script")
        equal = _equal(gold, answer, algebra)
    except (LimitError, UnparseableError, TimeLimitError) as error:
        try:
            parse_gold(gold, algebra)
        except ValueError as fault:
            return Verdict(Status.INFRA_ERROR, answer, f"the gold answer {fault}")
        if isinstance(error, TimeLimitError) and is_simple(gold, letters=True):
            return Verdict(Status.WRONG, answer, f"not decided against a simple answer ({error})")
        status = next(status for kind, status in _STATUS.items() if isinstance(error, kind))
        return Verdict(status, answer, str(error))
    return Verdict(Status.CORRECT, answer, "equal") if equal else Verdict(Status.WRONG, answer, "not equal")


def is_simple(gold: str, *, letters: bool = False) -> bool:
    """Whether a gold answer is a number (or an expression in `letters`): what cannot be decided against it is wrong."""
    try:
        value = plain(_assigned(clean(gold), _no_algebra))[0]
        return number(value) is not None or (letters and read(value) is not None)
    except (LimitError, UnreadError, _NeedsAlgebraError):
        return False


def compare_exactly(answer: str, gold: str) -> Verdict | None:
    """The verdict of `compare` where exact arithmetic or plain text decides, in well under a millisecond; else None."""
    try:
        return compare(answer, gold, _no_algebra)
    except _NeedsAlgebraError:
        return None


def parse_gold(gold: str, algebra: Algebra = _algebra) -> None:
    """Accept a gold answer, or raise ValueError that says in one line why it can be no one's gold answer."""
    if any(ord(char) < 32 and char not in "\t\n\r" for char in gold):
        raise ValueError("holds a control character, as where JSON ate the backslash of \\frac")
    text = clean(gold)
    if not text or text.lower() in _NOTHING:
        raise ValueError("is no answer")
    try:
        if len(text) > MAX_CHARS:
            raise LimitError(f"{len(text)} characters, more than {MAX_CHARS}")
        for element in _elements(text):
            if _is_words(element):
                _words(element)
            elif exact_value(plain(element)[0]) is None and _inside(element) is None and _cells(element) is None:
                _check_readable(element, algebra)
    except (LimitError, UnparseableError, TimeLimitError) as error:
        raise ValueError(f"cannot be graded ({error})") from None
    answer = declared_answer(f"\\boxed{{{gold}}}")
    verdict = undeclared() if answer is None else compare(answer, gold, algebra)
    if verdict.status is not Status.CORRECT:
        raise ValueError(f"is not accepted as its own answer ({verdict.reason})")


def _check_readable(text: str, algebra: Algebra) -> None:
    """Raises UnparseableError where neither reader knows `text`."""
    algebra()
    if looks_like_region(text) and read_region(text):
        return
    value = plain(_assigned(text, algebra))[0]
    try:
        for side in split_outside(value, _SIDES):
            read(side)
    except UnreadError:
        algebra().parsed(value)


def _equal(gold: str, answer: str, algebra: Algebra) -> bool:
    """Equality of gold and answer, as they were written."""
    if _DECIMAL.fullmatch(gold) and _DECIMAL.fullmatch(answer):  # most of what is graded
        return exact_value(gold) == exact_value(answer)
    if not _HENCE.search(gold):  # what follows the last arrow is the answer
        answer = _HENCE.split(answer)[-1]
    if _LETTER.fullmatch(gold.strip("$ ")):
        chosen = choice_of(answer) or choice_of(without_remark(clean(answer)))
        if chosen:
            return chosen == choice_of(gold)
    listed = [bool(re.search(r"\d,(?:\s|\\[,; ])+\d{3}(?!\d)", text)) for text in (gold, answer)]
    if not listed[0] and _same_said(clean(gold), clean(answer), algebra):
        return True
    listed[1] = listed[1] or answer.lstrip(" $").startswith("\\{")
    if not any(listed):  # "100,200" may be a number or a list; one that is written as a list decides
        return False
    return _same_said(clean(gold, thousands=False), clean(answer, thousands=False), algebra)


def _same_said(gold: str, answer: str, algebra: Algebra) -> bool:
    """Equality of cleaned answers, with or without what is only remarked beside the answer."""
    shorter = without_remark(answer)
    if not looks_like_region(gold):
        kept = for_all(shorter, gold)
        shorter = shorter if looks_like_region(kept) else kept
    if shorter != answer and _squeezed(gold) != _squeezed(answer):
        try:
            if _same_lists(gold, shorter, algebra):
                return True
        except UnparseableError:
            pass
    return _same_lists(gold, answer, algebra)


def _same_lists(gold: str, answer: str, algebra: Algebra) -> bool:
    """Equality of what may be several answers, in any order and equally many."""
    if _squeezed(gold) == _squeezed(answer) or _unwrapped(gold) == _unwrapped(answer):
        return True
    gold, answer = _unconditional(gold, answer)
    if looks_like_region(gold):
        algebra()
        regions = read_region(gold), read_region(answer)
        if regions[0] and regions[1]:
            return regions[0].equals(regions[1])
    answer = _cases(_factor_named(gold, _constant(gold, answer)))
    golds, answers = _members(gold), _members(answer)
    gold_names, answer_names = _names(golds), _names(answers)
    if gold_names and len(golds) == len(answers):  # a = 1, b = 2: by name, or in their order
        inside = _inside(answer)
        if answer_names:
            if sorted(gold_names) != sorted(answer_names):
                return False
            answers = [answers[answer_names.index(name)] for name in gold_names]
        return _match(golds, inside[1] if inside else answers, algebra, ordered=True)
    inside = _inside(gold)
    if gold_names and len(answers) == 1:  # a = 1, b = 2 as (1, 2)
        pair = _inside(_assigned(answer, algebra))
        return pair is not None and pair[0] == "()" and _match(golds, pair[1], algebra, ordered=True)
    if inside and inside[0] == "()" and answer_names and len(inside[1]) == len(answers):
        return _match(
            inside[1], [text for _, text in sorted(zip(answer_names, answers, strict=True))], algebra, ordered=True
        )
    return _match(golds, answers, algebra, ordered=False)


def _unconditional(gold: str, answer: str) -> tuple[str, str]:
    """Both without what only says that a letter in them is a real or a whole number; the letter named as in `gold`."""
    texts, letters, kinds = [], [], []
    for text in (gold, answer):
        real, whole = _REALS.search(text), _WHOLE.search(text)
        if real and real[1] in text[: real.start()]:
            text, whole = text[: real.start()], None
        letter = (whole[1] or whole[3]) if whole else ""
        if whole and letter in _letters(text[: whole.start()]):
            text = text[: whole.start()]
        else:
            letter = ""
        texts.append(text.rstrip(" ,"))
        letters.append(letter)
        kinds.append((whole[2] or "Z") if whole and letter else "")
    if (all(kinds) and kinds[0] != kinds[1]) or (letters[1] and not letters[0] and letters[1] not in "knm"):
        return gold, answer
    if letters[0] and not letters[1]:  # the condition was left out
        others = [letter for letter in "knm" if letter in _letters(texts[1])]
        letters[1] = letters[0] if letters[0] in _letters(texts[1]) else others[0] if len(others) == 1 else ""
    if letters[0] and letters[1] and letters[0] != letters[1]:
        texts[1] = _renamed(texts[1], letters[1], letters[0])
    return texts[0], texts[1]


def _letters(text: str) -> set[str]:
    """The letters that stand for something, outside of commands."""
    return set(re.findall("[a-zA-Z]", re.sub(r"\\text\{[^{}]*\}|\\[a-zA-Z]+", " ", text)))


def _renamed(text: str, old: str, new: str) -> str:
    return re.sub(r"\\[a-zA-Z]+|[a-zA-Z]", lambda match: new if match[0] == old else match[0], text)


def _constant(gold: str, answer: str) -> str:
    """`answer` with the constant of integration named as in `gold`: `+ c` for `+ C`, where both are free letters."""
    ends = [_INTEGRATION.search(text) for text in (gold, answer)]
    if ends[0] is None or ends[1] is None or ends[0][1] == ends[1][1] or ends[0][1] in "cKk":
        return answer
    bodies = [
        re.sub(r"\\[a-zA-Z]+", "", text[: end.start()]) for text, end in zip((gold, answer), ends, strict=True) if end
    ]
    if re.search("[A-Z]", bodies[0]) or any(end[1] in body for end in ends if end for body in bodies):
        return answer
    return f"{answer[: ends[1].start(1)]}{ends[0][1]}"


def _factor_named(gold: str, answer: str) -> str:
    """`answer` with the free factor of an exponential named as in `gold`: `Ae^{-2t}` for `Ce^{-2t}`."""
    heads = [_FREE_FACTOR.match(text) for text in (gold, answer)]
    if heads[0] is None or heads[1] is None or heads[0][2] == heads[1][2] or heads[0][2] not in "Cc":
        return answer
    rest = [text[head.end(2) :] for text, head in zip((gold, answer), heads, strict=True) if head]
    if any(head[2] in _letters(text) for head in heads if head for text in rest):
        return answer
    return f"{answer[: heads[1].start(2)]}{heads[0][2]}{rest[1]}"


def _cases(text: str) -> str:
    """`x=1, y=2 or x=2, y=1` as the pairs that it lists: by the names, in their order."""
    cases = [_elements(part) for part in split_outside(text, _CASE)]
    names = [_names(parts) for parts in cases]
    if len(cases) < 2 or not names[0] or any(sorted(each) != sorted(names[0]) for each in names):
        return text
    rows = [sorted(zip(each, parts, strict=True)) for each, parts in zip(names, cases, strict=True)]
    return ",".join(f"({','.join(part.partition('=')[2].strip() for _, part in row)})" for row in rows)


def _names(parts: Sequence[str]) -> list[str]:
    """The names of two and more values that all have one of their own, else none: `x = 1, y = 2`."""
    heads = [re.match(r"(\\[a-zA-Z]+|[a-zA-Z])\s*=", part) for part in parts]
    names = [head[1] for head in heads if head]
    return names if len(names) == len(parts) > 1 and len(set(names)) == len(names) else []


def _members(text: str) -> list[str]:
    """The answers in a bare list, or in a set, or in `x \\in` a set."""
    member = re.match(r"(?:\\?[a-zA-Z](?:_\w+)?|\([a-z](?:,\s*[a-z])+\))\s*(?:\\in(?![a-zA-Z])|=)\s*(?=\\\{)", text)
    text = text[member.end() :] if member else text
    inside = _inside(text)
    if inside and inside[0].startswith("\\") and inside[1] != ["\\emptyset"]:
        return inside[1]
    return _elements(text)


def _match(golds: Sequence[str], answers: Sequence[str], algebra: Algebra, *, ordered: bool) -> bool:
    if len(golds) != len(answers):
        return False
    if ordered or len(golds) == 1:
        return all(_same(gold, answer, algebra) for gold, answer in zip(golds, answers, strict=True))
    rest = list(answers)
    for gold in golds:
        match = next((index for index, answer in enumerate(rest) if _same(gold, answer, algebra)), None)
        if match is None:
            return False
        del rest[match]
    return True


def _on_twelve(time: str) -> str:
    """16:20 as 4:20."""
    return _TWENTY_FOUR.sub(lambda match: f"{int(match[1]) - 12}:{match[2]}", time)


def _same(gold: str, answer: str, algebra: Algebra) -> bool:
    """Equality of two single answers."""
    moduli = modulus_of(gold), modulus_of(answer)
    if moduli[0] and moduli[1] and moduli[0] != moduli[1]:
        return False
    gold, answer = _in_one_notation(gold, answer)
    gold_name, answer_name = _name(gold), _name(answer)
    if gold_name and answer_name and gold_name != answer_name and len(gold_name) == len(answer_name) == 1:
        return _related(gold, answer, algebra)
    if _squeezed(gold) == _squeezed(answer):
        return True
    if _has_relation(gold) and _has_relation(answer) and _related(gold, answer, algebra):
        return True
    halves = [_HALF_OF_DAY.findall(text) for text in (gold, answer)]
    if halves[0] and halves[1] and halves[0][0].lower() != halves[1][0].lower():
        return False
    if halves[0] and not halves[1] and _is_afternoon(halves[0][0]):
        answer = _on_twelve(answer)
    elif halves[1] and not halves[0] and _is_afternoon(halves[1][0]):
        gold = _on_twelve(gold)
    answer = _POINT.sub("", answer)
    whole_answer = answer
    gold = _assigned(gold, algebra, strict=True)
    if _has_relation(gold) and not looks_like_region(gold):
        return False if _has_relation(answer) else _unrelated(answer, algebra)
    answer = _assigned(answer, algebra)
    if _squeezed(gold) == _squeezed(answer):
        return True
    degrees_gold, degrees_answer = in_degrees(gold), in_degrees(answer)
    if degrees_gold and in_radians(answer):
        gold, degrees_gold = _radians(gold.removesuffix("^{\\circ}")), False
    unit = unit_of(gold)
    (gold, percent_gold), (answer, percent_answer) = plain(gold), plain(answer, unit)
    exact_gold, exact_answer = exact_value(gold), exact_value(answer)
    if exact_gold is not None and exact_answer is not None:
        shares = (
            exact_gold / 100 if percent_gold else exact_gold,
            exact_answer / 100 if percent_answer else exact_answer,
        )
        if shares[0] == shares[1]:
            return True
        # a percent sign is a unit: 25 for 25 %, and 25 % for 25, but never 0.25 % for 0.25
        return exact_gold == exact_answer and (
            percent_gold > percent_answer or (not percent_gold and abs(exact_gold) > 1)
        )
    gold_cells, answer_cells = _cells(gold), _cells(answer)
    if gold_cells or answer_cells:
        return _same_cells(gold_cells, answer_cells, gold, answer, algebra)
    if degrees_gold != degrees_answer:  # one of them counts in radians
        gold, answer = (_radians(gold), answer) if degrees_gold else (gold, _radians(answer))
    base_gold, base_answer = _BASED.fullmatch(gold), _BASED.fullmatch(answer)
    if base_answer and not base_gold and exact_gold is not None:
        return base_answer[2] == "10" and exact_value(base_answer[1]) == exact_gold
    if base_gold or base_answer:  # a base counts where both write it: the question has fixed it
        digits = [based[1] if based else text for based, text in ((base_gold, gold), (base_answer, answer))]
        return digits[0] == digits[1] and not (base_gold and base_answer and base_gold[2] != base_answer[2])
    if _is_words(gold) or _is_words(answer) or "\\emptyset" in gold:
        if exact_gold is not None:
            in_digits = spelled(answer)
            if in_digits != answer:
                return _same(gold, in_digits, algebra)
            raise UnparseableError("words where a number was asked for")
        whole_answer = _explained(gold, whole_answer)
        whole = _same_words(_words(gold), _words(whole_answer if _is_words(gold) else answer))
        return whole or (re.search(r"\d", gold) is not None and _words(gold) == _words(answer))  # without its unit
    inside_gold = _inside(gold)
    if inside_gold and inside_gold[0] == "()":  # the point C(1,2) was taken for a binomial
        answer = _BINOMIAL.sub(r"(\1,\2)", answer)
    inside_answer = _inside(answer)
    if inside_gold and inside_answer:
        if inside_gold[0] != inside_answer[0]:
            return False
        return _match(inside_gold[1], inside_answer[1], algebra, ordered=not inside_gold[0].startswith("\\"))
    if inside_gold and "\\unit_" in answer:
        return _same_components(inside_gold[1], answer, algebra)
    if ":" in gold or ":" in answer:
        return _same_ratio(gold, answer, algebra)
    if bool(inside_gold) != bool(inside_answer):
        return False
    interval = looks_like_region(gold)
    if not interval and (_has_relation(answer) or _SET.search(_TO_INFINITY.sub("", answer))):
        return _unrelated(answer, algebra)
    if percent_gold or percent_answer:
        gold, answer = (f"({gold})\\%" if percent_gold else gold), (f"({answer})\\%" if percent_answer else answer)
    algebra()
    check_limits(answer)
    if _ANTIDERIVATIVE.search(answer) and number(gold) is not None:
        return False  # a function, or a number that is written as none
    if interval and number(answer) is not None and read_region(gold):
        return False
    equal = same_value(gold, answer)
    if equal is False and (_BARE_LOG.search(gold) or _BARE_LOG.search(answer)):  # or to base 10, as in school
        equal = same_value(*(_BARE_LOG.sub(r"\\lg ", text) for text in (gold, answer)))
    if equal is None and _is_known(gold) and not _CALCULUS.search(answer):  # math-verify skips what it cannot read
        raise UnparseableError("no expression that is known")
    return bool(algebra().symbolic_equal(gold, answer, sets_as_relations=interval)) if equal is None else equal


def _is_afternoon(half: str) -> bool:
    return half.lower() == "pm"


def _in_one_notation(gold: str, answer: str) -> tuple[str, str]:
    """Both with binomials as such, with the argument of a function as `gold` has it, with logarithms to one base."""
    if not _inside(gold):
        gold, answer = (_CHOOSE.sub(r"\\binom{\1}{\2}", text) for text in (gold, answer))
    heads = [_FUNCTION.match(text) for text in (gold, answer)]
    if heads[0] and heads[1] and heads[0][1] == heads[1][1] and heads[0][2] not in _letters(answer):
        answer = _renamed(answer, heads[1][2], heads[0][2])
    if _BASE_TEN.search(gold) or _BASE_TEN.search(answer):  # then a bare \log is to that base too
        gold, answer = (_BARE_LOG.sub(r"\\lg ", text) for text in (gold, answer))
    return gold, answer


def _unrelated(answer: str, algebra: Algebra) -> bool:
    """False, where `answer` is mathematics at all."""
    _check_readable(answer, algebra)
    return False


def _is_known(text: str) -> bool:
    try:
        return read(text) is not None
    except UnreadError:
        return False


def _has_relation(text: str) -> bool:
    return len(split_outside(text, _RELATION)) > 1


def _related(gold: str, answer: str, algebra: Algebra) -> bool:
    """Equality of two equations or inequalities in several variables: their sides differ by a constant factor."""
    sides = [split_outside(text, _SIDES) for text in (gold, answer)]
    if any(len(parts) != 2 for parts in sides):
        return _squeezed(gold) == _squeezed(answer)
    (one, two), (three, four) = sides
    sign, other = (
        text[len(parts[0]) : len(text) - len(parts[1])].strip()
        for text, parts in zip((gold, answer), sides, strict=True)
    )
    algebra()
    check_limits(answer)
    factor = ratio((one, two), (three, four))
    if factor is None or not factor:
        return factor is not None and sign == other == "=" and same_curve((one, two), (three, four))
    if sign in ("=", "\\ne"):
        return sign == other
    if factor.imag:
        return False
    turned = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le", "=": "=", "\\ne": "\\ne"}
    return sign == (other if factor.real > 0 else turned[other])


def _same_ratio(gold: str, answer: str, algebra: Algebra) -> bool:
    """3:4:5 is 6:8:10 and "6 to 8 to 10"; a time of the day is its own."""
    answer = re.sub(r"\s*\\text\{\s*to\s*\}\s*|\s+to\s+", ":", answer)
    golds, answers = gold.split(":"), answer.split(":")
    if sorted((len(golds), len(answers))) == [1, 2] and not _CLOCK.fullmatch(gold):
        fraction = exact_value(gold if len(golds) == 1 else answer)
        over, under = (exact_value(part) for part in (golds if len(golds) > 1 else answers))
        if fraction is None or over is None or not under or fraction.denominator == 1:
            return False
        return over == fraction * under
    if _CLOCK.fullmatch(gold) and _CLOCK.fullmatch(answer):
        return int(golds[0]) == int(answers[0]) and golds[1].strip() == answers[1].strip()
    if len(golds) != len(answers) or _CLOCK.fullmatch(gold):
        return re.sub(r"\s", "", gold) == re.sub(r"\s", "", answer)
    parts = [[exact_value(part) for part in side] for side in (golds, answers)]
    if any(part is None for side in parts for part in side):
        return _match(golds, answers, algebra, ordered=True)
    one, two = ([part or 0 for part in side] for side in parts)
    return all(one[0] * b == two[0] * a for a, b in zip(one, two, strict=True)) and bool(one[0]) == bool(two[0])


def _same_components(golds: Sequence[str], answer: str, algebra: Algebra) -> bool:
    r"""(1, -2) is `\mathbf{i} - 2\mathbf{j}`, where the components are numbers."""
    algebra()
    names = [f"\\unit_{letter}" for letter in "ijk"[: len(golds)]]
    try:
        vector = read(answer)
    except UnreadError:
        return False
    parts = [number(gold) for gold in golds]
    if len(parts) != len(names) or None in parts or not vector.names <= set(names):
        return False
    scopes = [{name: int(name == unit) for name in names} for unit in names]
    return all(near(vector.at(scope), part) for scope, part in zip(scopes, parts, strict=True))


def _cells(text: str) -> list[list[str]] | None:
    r"""The rows of a matrix, `\frac12` in front of it within, `^T` behind it taken; None where `text` is none."""
    text = text.strip()
    rows = _inside(text) if text.startswith("[[") else None
    if rows:
        inner = [_inside(row) for row in rows[1]]
        return [each[1] for each in inner if each] if all(inner) else None
    turned = _TRANSPOSED.search(text)
    text = text[: turned.start()] if turned else text
    factor = _FACTOR.match(text)
    match = _MATRIX.fullmatch(text[factor.end() :] if factor else text)
    if match is None:
        return None
    lines = [row.strip() for row in re.split(r"\\\\(?:\[[^\]]*\])?", match[2])]
    found = [[cell.strip() for cell in row.split("&")] for row in lines if row]
    if factor:
        front = "-1" if factor[1].strip() == "-" else factor[1]
        found = [[f"({front})({cell})" for cell in row] for row in found]
    if turned and len({len(row) for row in found}) == 1:
        found = [list(column) for column in zip(*found, strict=True)]
    return found


def _same_cells(
    golds: list[list[str]] | None, answers: list[list[str]] | None, gold: str, answer: str, algebra: Algebra
) -> bool:
    """Matrices cell by cell; a single row or column may be written as a tuple."""
    shapes = [[len(row) for row in rows] if rows else [] for rows in (golds, answers)]
    left, right = ([cell for row in rows or [] for cell in row] for rows in (golds, answers))
    if not golds or not answers:
        if golds and "\\unit_" in answer and 1 in (len(golds), max(shapes[0])):
            return _same_components(left, answer, algebra)
        other = answer if golds else gold
        inside = _inside(_TRANSPOSED.sub("", other))
        shape = shapes[0] or shapes[1]
        if (
            inside is None
            or inside[0] not in ("()", "[]" if _TRANSPOSED.search(other) else "()")
            or (len(shape) > 1 and max(shape) > 1)
        ):
            return False
        left, right = left or inside[1], right or inside[1]
    elif shapes[0] != shapes[1]:
        return False
    return _match(left, right, algebra, ordered=True)


def _elements(text: str) -> list[str]:
    """The answers in `text`: split at commas, semicolons, "or" and "and" outside brackets; `±` is two answers."""
    if re.search(r"(?:^|\W)(?:or|and)\W*$", text):
        raise UnparseableError("ends within a list")
    parts, start, depth, at = [], 0, 0, 0
    while at < len(text):
        separator = _SEPARATOR.match(text, at) if not depth else None
        if separator and (not _is_words(text[start:at]) or "=" in text[start:at]):
            parts.append(text[start:at].strip())
            start = at = separator.end()
            continue
        depth += (text[at] in "([{") - (text[at] in ")]}")
        at += 1
    parts = [part for part in [*parts, text[start:].strip()] if part]
    if len(parts) > MAX_ELEMENTS:
        raise LimitError(f"a list of {len(parts)}, more than {MAX_ELEMENTS}")
    both = [[_SIGNS.sub(sign, part) for sign in "+-"] if len(_SIGNS.findall(part)) == 1 else [part] for part in parts]
    return [element for elements in both for element in elements]


def _inside(text: str) -> tuple[str, list[str]] | None:
    r"""Kind and elements of a tuple, interval or `\{set\}`; None where one bracket does not span the whole."""
    body = re.fullmatch(r"(\\\{|\(|\[)(.*)(\\\}|\)|\])", text.strip(), re.DOTALL)
    if not body:
        return None
    depth = 0
    for char in body[2]:
        depth += (char in "([{") - (char in ")]}")
        if depth < 0:
            return None
    elements = _elements(body[2])
    return (body[1] + body[3], elements) if len(elements) > 1 or body[1] == "\\{" else None


def _name(text: str) -> str:
    head, equals, _ = text.partition("=")
    return head.strip() if equals else ""


def _assigned(text: str, algebra: Algebra, *, strict: bool = False) -> str:
    r"""The value of `x = 5`, `5 = x`, `m + n = 5`, `x \in [0, 1]` or a chain of equal numbers; else `text`.

    With `strict`, only a name may stand on the left: a gold answer `x + y = 3` is an equation.
    """
    head, member, tail = text.partition("\\in ")
    if member and _NAME.fullmatch(head.strip()):
        return tail.strip()
    rounded = _ROUNDED.fullmatch(text)
    if rounded and _rounds(rounded[1], rounded[2] or rounded[3], algebra, cut=rounded[3] is not None):
        text = rounded[1]
    parts = split_outside(text, _EQUALS)
    parts = parts[1:] if len(parts) > 1 and not parts[0] else parts
    if len(parts) > 1 and (_is_name(parts[0]) or (not strict and _names_a_value(parts[0]))):
        parts = parts[1:]
    elif len(parts) == 2 and _NAME.fullmatch(parts[1]) and exact_value(plain(parts[0])[0]) is not None:
        parts = parts[:1]
    if len(parts) == 1:
        return parts[0]
    values = {_share(part) for part in parts}
    if len(values) == 1 and None not in values:
        return parts[-1]
    if re.search(r"[a-zA-Z]", text) and None in values and not any(map(_has_relation, parts)):
        algebra()
        chain = [plain(part)[0] for part in parts]
        known = not strict or all(number(part) is not None for part in chain)
        if known and all(same_value(chain[0], part) for part in chain[1:]):
            return parts[-1]
    return text


def _share(text: str) -> Fraction | None:
    """The exact value of a number, of a percentage as a share."""
    value, percent = plain(text)
    exact = exact_value(value)
    return exact / 100 if exact is not None and percent else exact


def _rounds(text: str, decimal: str, algebra: Algebra, *, cut: bool = False) -> bool:
    """Whether `decimal` is the value of `text`, rounded, or cut off."""
    value: Any = exact_value(plain(text)[0])
    if value is None:
        algebra()
        value = number(plain(_assigned(text, algebra))[0])
    places = len(decimal.partition(".")[2])
    return value is not None and bool(abs(value - Fraction(decimal)) * (2 - cut) * 10**places <= 1)


def _is_name(head: str) -> bool:
    return _NAME.fullmatch(head) is not None and _DIGITS_ONLY.fullmatch(head) is None and _DENIED.search(head) is None


def _names_a_value(head: str) -> bool:
    r"""Whether `head` may stand left of an answer: an expression of several names (`m + n`), or none that is known."""
    if _DENIED.search(head):
        return False
    try:
        names = read(head).names
    except UnreadError:
        return bool(re.search(r"[a-zA-Z]", head)) and not re.search(r"[<>]|\\(?:le|ge|ne|pm)(?![a-zA-Z])", head)
    except LimitError:
        return False
    return len(names) > 1


def _unwrapped(text: str) -> str:
    return " ".join(_TEXT.sub(r" \1 ", text).split())


def _squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text) if not re.search(r"\d\s+\d", text) else text


def _is_words(text: str) -> bool:
    """Whether `text` is an answer in words: math-verify would read "even" as a product of e, v, e and n."""
    bare = _TEXT.sub(r" \1 ", _ENVIRONMENT.sub(" ", text))
    words = re.findall(r"[^\W\d_]+", re.sub(r"\\[a-zA-Z]+", " ", bare))
    return (
        any(len(word) >= 4 for word in words)
        or _IN_PARTS.search(bare) is not None
        or any(len(word) == 3 and (len(set(word)) < 3 or re.search("[aeiou]", word[1:])) for word in words)
        or bool(re.fullmatch(r"\(?[A-Z]\)?|[Nn][Oo]|[A-Z]{3,}", text))
        or (text.startswith("\\text") and _TEXT.fullmatch(text) is not None and not re.search(r"\d", text))
    )


def _words(text: str) -> str:
    """The words to compare; raises UnparseableError for prose or a mixture of words and mathematics."""
    if re.search(r"\\\{.*\\emptyset", text):  # a set that holds the empty one
        return text
    text = text.replace("\\emptyset", "no solution")
    bare = " ".join(re.sub(r"[^\w\s<>&%#@|]", " ", _TEXT.sub(r" \1 ", text)).split())
    if re.search(r"\d", bare):  # 2 hours and 15 minutes
        bare = re.sub(r"\band ", "", bare)
    if len(bare.split()) > MAX_WORDS:
        raise UnparseableError(f"more than {MAX_WORDS} words")
    if re.search(r"\\(?!text|mathrm|mbox|operatorname)[a-zA-Z]|[+^=*]", text):
        raise UnparseableError("words and mathematics mixed")
    bare = re.sub(r"(?<=\d)(?:st|nd|rd|th)\b", "", bare.casefold())
    bare = re.sub(r"^(?:an?|the|it|on|in|at|there (?:is|are|exists?)) (?=\w{2})", "", bare)
    bare = re.sub(r"^no (?:real )?solutions?(?: exists?)?$|^no such \w+ exists?$", "no solution", bare)
    bare = re.sub(
        r"^(?:infinitely many|infinite) (?:solutions?|values|answers|roots|such \w+)$", "infinitely many", bare
    )
    if re.search(r"\d", bare) and (bare.count(" ") == 1 or _MONTH.search(bare)):  # "5 June" is "June 5"
        bare = " ".join(sorted(re.sub(r"\b(?:of|the) ", "", bare).split()))
    return _SAME_WORDS.get(bare, bare)


def _same_words(gold: str, answer: str) -> bool:
    """Equality of words, with or without a noun that one of them leaves out: "even" and "even function"."""
    return gold == answer or any(
        _DESCRIBED.fullmatch(longer) and longer.partition(" ")[0] == shorter
        for longer, shorter in ((gold, answer), (answer, gold))
    )


def _explained(gold: str, answer: str) -> str:
    """The word that was asked for, where a comma and its reason follow, or a subject goes before: "the series …"."""
    word, said = (" ".join(_TEXT.sub(r" \1 ", text).split()).casefold() for text in (gold, answer))
    reason = re.fullmatch(r"(yes|no|true|false)\s*[,.;:\u2013\u2014-]\s*(.*)", said)
    if reason and word in _TRUTHS and not re.search(_CONDITION, reason[2]):
        return reason[1]
    return (
        gold
        if re.fullmatch(
            r"(?:(?:it|this|the (?!no|un|in|ir|im|least|most)\w+)(?: is| are)?"
            r"|(?:\\?triangle [a-z]{3}|[a-z](?:\([a-z]\))?) is)"
            rf"(?: an?| the)? {re.escape(word)}",
            said,
        )
        else answer
    )


def _radians(degrees: str) -> str:
    return f"\\frac{{({degrees})\\pi}}{{180}}"
