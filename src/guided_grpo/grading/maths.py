r"""The maths verifier: does a response declare the gold answer?

In this order, and each step only where the one before cannot decide: the same text; the same exact rational number
(no tolerance, `exact.py`); the same words; the same list, tuple, interval or set, element by element; and at last
math-verify, which sees one cleaned expression, never a whole response (`symbolic.py`). What could stall it is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from types import ModuleType

from guided_grpo.grading.answers import clean, declared_answer
from guided_grpo.grading.exact import MAX_CHARS, LimitError, TimeLimitError, UnparseableError, exact_value
from guided_grpo.types import Status, Verdict

MAX_ELEMENTS = 64  # of a list, tuple or set
MAX_WORDS = 4  # of an answer in words

_SEPARATOR = re.compile(r",|;|\\text\{\s*(?:or|and)\s*\}|(?<![a-zA-Z])(?:or|and)(?![a-zA-Z])")
_VARIABLE = re.compile(  # x, x_1, \alpha, f(x), f^{-1}(x), \text{Area}, "Total cost"
    r"(?:\\[a-zA-Z]+|[a-zA-Z])(?:_\w+|_\{[^{}]*\})?(?:\^\{-1\})?(?:\([a-z](?:,\s*[a-z])*\))?"
    r"|\\text\{[^{}]*\}|[A-Za-z ]+"
)
_RELATION = re.compile(r"[<>=]|\\(?:le|leq|ge|geq|ne|neq|equiv|approx)(?![a-zA-Z])")
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mbox|operatorname)\s*\{([^{}]*)\}")
_UNIT = re.compile(
    r"(?<=[\d)}])\s*(?:"
    r"\\(?:text|textrm|mathrm|mbox)\s*\{[^{}\d]*\}(?:\^\{?\d\}?)?"
    r"|(?:cm|mm|km|kg|mg|ml|mL|mi|ft|in|lbs?|oz|hr|min|sec|mph|cents?)(?:\^\{?\d\}?)?"
    r"|(?<=\s)[mgslh](?:\^\{?\d\}?)?"
    r"|(?<=\s)(?!or\b|and\b|times\b|dozen|hundred|thousand|million|billion|trillion)"
    r"[a-zA-Z]{3,}(?:[ /-][a-zA-Z]+)*(?:\^\{?\d\}?)?"
    r")$"
)
_HEDGE = re.compile(r"\b(?:or|and|nor|not|no|but|maybe|perhaps|possibly|else)\b", re.IGNORECASE)  # no part of a unit
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\s*\{\w+\*?\}")
_BASED = re.compile(r"(\d[0-9A-F]*)\s*_\{?(\d+)\}?")
_DEGREES = "^{\\circ}"
_STATUS: dict[type[Exception], Status] = {
    LimitError: Status.RESOURCE,
    UnparseableError: Status.UNPARSEABLE,
    TimeLimitError: Status.TIMEOUT,
}
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
        equal = _same_lists(clean(gold), clean(answer), algebra)
    except (LimitError, UnparseableError, TimeLimitError) as error:
        try:
            parse_gold(gold, algebra)
        except ValueError as fault:
            return Verdict(Status.INFRA_ERROR, answer, f"the gold answer {fault}")
        return Verdict(_STATUS[type(error)], answer, str(error))
    return Verdict(Status.CORRECT, answer, "equal") if equal else Verdict(Status.WRONG, answer, "not equal")


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
            elif exact_value(_plain(element)) is None and _inside(element) is None:
                algebra().parsed(_assigned(element))
    except (LimitError, UnparseableError, TimeLimitError) as error:
        raise ValueError(f"cannot be graded ({error})") from None
    answer = declared_answer(f"\\boxed{{{gold}}}")
    verdict = undeclared() if answer is None else compare(answer, gold, algebra)
    if verdict.status is not Status.CORRECT:
        raise ValueError(f"is not accepted as its own answer ({verdict.reason})")


def _same_lists(gold: str, answer: str, algebra: Algebra) -> bool:
    """Equality of what may be several answers, in any order and equally many."""
    if _squeezed(gold) == _squeezed(answer):
        return True
    return _match(_members(gold), _members(answer), algebra, ordered=False)


def _members(text: str) -> list[str]:
    """The answers in a bare list, or in a set."""
    inside = _inside(text)
    return inside[1] if inside and inside[0].startswith("\\") else _elements(text)


def _match(golds: Sequence[str], answers: Sequence[str], algebra: Algebra, *, ordered: bool) -> bool:
    if len(golds) != len(answers):
        return False
    if ordered:
        return all(_same(gold, answer, algebra) for gold, answer in zip(golds, answers, strict=True))
    rest = list(answers)
    for gold in golds:
        match = next((index for index, answer in enumerate(rest) if _same(gold, answer, algebra)), None)
        if match is None:
            return False
        del rest[match]
    return True


def _same(gold: str, answer: str, algebra: Algebra) -> bool:
    """Equality of two single answers."""
    gold_name, answer_name = _name(gold), _name(answer)
    if gold_name and answer_name and gold_name != answer_name and len(gold_name) == len(answer_name) == 1:
        return False
    gold, answer = _assigned(gold), _assigned(answer)
    if _squeezed(gold) == _squeezed(answer):
        return True
    degrees_gold, degrees_answer = gold.endswith(_DEGREES), answer.endswith(_DEGREES)
    gold, answer = _plain(gold), _plain(answer)
    exact_gold, exact_answer = exact_value(gold), exact_value(answer)
    if exact_gold is not None and exact_answer is not None:
        return exact_gold == exact_answer
    if degrees_gold != degrees_answer:  # one of them counts in radians
        gold, answer = (_radians(gold), answer) if degrees_gold else (gold, _radians(answer))
    base_gold, base_answer = _BASED.fullmatch(gold), _BASED.fullmatch(answer)
    if base_gold or base_answer:  # a base counts where both write it: the question has fixed it
        digits = [based[1] if based else text for based, text in ((base_gold, gold), (base_answer, answer))]
        return digits[0] == digits[1] and not (base_gold and base_answer and base_gold[2] != base_answer[2])
    if _is_words(gold) or _is_words(answer):
        if exact_gold is not None:
            raise UnparseableError("words where a number was asked for")
        return _words(gold) == _words(answer)
    inside_gold, inside_answer = _inside(gold), _inside(answer)
    if inside_gold and inside_answer:
        if inside_gold[0] != inside_answer[0]:
            return False
        return _match(inside_gold[1], inside_answer[1], algebra, ordered=not inside_gold[0].startswith("\\"))
    interval = gold.startswith(("(", "[")) or "\\infty" in gold or "\\cup" in gold
    if bool(_RELATION.search(gold)) != bool(_RELATION.search(answer)) and not interval:
        algebra().parsed(answer)
        return False
    return bool(algebra().symbolic_equal(gold, answer, sets_as_relations=interval))


def _elements(text: str) -> list[str]:
    """The answers in `text`: split at commas, semicolons, "or" and "and" outside brackets; `±` is two answers."""
    parts, start, depth, at = [], 0, 0, 0
    while at < len(text):
        separator = _SEPARATOR.match(text, at) if not depth else None
        if separator and not _is_words(text[start:at]):
            parts.append(text[start:at].strip())
            start = at = separator.end()
            continue
        depth += (text[at] in "([{") - (text[at] in ")]}")
        at += 1
    parts = [part for part in [*parts, text[start:].strip()] if part]
    if len(parts) > MAX_ELEMENTS:
        raise LimitError(f"a list of {len(parts)}, more than {MAX_ELEMENTS}")
    both = [[part.replace("\\pm", sign) for sign in "+-"] if part.count("\\pm") == 1 else [part] for part in parts]
    return [element for elements in both for element in elements]


def _inside(text: str) -> tuple[str, list[str]] | None:
    r"""Kind and elements of a tuple, interval or `\{set\}`; None where one bracket does not span the whole."""
    text = text.strip()
    body = re.fullmatch(r"(\\\{|\(|\[)(.*)(\\\}|\)|\])", text, re.DOTALL)
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


def _assigned(text: str) -> str:
    r"""The value of `x = 5`, `x \in [0, 1]` or a chain of equal numbers; other relations stay as they are."""
    head, member, tail = text.partition("\\in ")
    if member and _VARIABLE.fullmatch(head.strip()):
        return tail.strip()
    parts = [part.strip() for part in text.split("=")]
    if len(parts) > 1 and _VARIABLE.fullmatch(parts[0]):
        parts = parts[1:]
    if len(parts) == 1:
        return parts[0]
    values = {exact_value(_plain(part)) for part in parts}
    return parts[-1] if len(values) == 1 and None not in values else text


def _plain(text: str) -> str:
    """Without its unit; degrees are a unit too."""
    text = text.removesuffix(_DEGREES).strip()
    unit = _UNIT.search(text)
    if unit is None or _HEDGE.search(unit[0]) or _ends_in_words(text[: unit.start()]):
        return text
    return text[: unit.start()].strip()


def _ends_in_words(text: str) -> bool:
    """Whether `text` ends with a `\\text{…}`: what follows that is no unit, but more words."""
    return any(match.end() == len(text.rstrip()) for match in _TEXT.finditer(text))


def _squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text) if not re.search(r"\d\s+\d", text) else text


def _is_words(text: str) -> bool:
    """Whether `text` is an answer in words: math-verify would read "even" as a product of e, v, e and n."""
    bare = _TEXT.sub(r" \1 ", _ENVIRONMENT.sub(" ", text))
    words = re.findall(r"[^\W\d_]+", re.sub(r"\\[a-zA-Z]+", " ", bare))
    return (
        any(len(word) >= 4 for word in words)
        or bool(re.fullmatch(r"\(?[A-Z]\)?", text))
        or (text.startswith("\\text") and _TEXT.fullmatch(text) is not None and not re.search(r"\d", text))
    )


def _words(text: str) -> str:
    """The words to compare; raises UnparseableError for prose or a mixture of words and mathematics."""
    bare = " ".join(re.sub(r"[^\w\s<>&%#@|]", " ", _TEXT.sub(r" \1 ", text)).split())
    if len(bare.split()) > MAX_WORDS:
        raise UnparseableError(f"more than {MAX_WORDS} words")
    if re.search(r"\\(?!text|mathrm|mbox|operatorname)[a-zA-Z]|[+^=*]", text):
        raise UnparseableError("words and mathematics mixed")
    return bare.casefold()


def _radians(degrees: str) -> str:
    return f"\\frac{{({degrees})\\pi}}{{180}}"
