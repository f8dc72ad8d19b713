r"""What a response says beside its answer, and numbers in words.

`5\text{ (by symmetry)}`, `5, as required` and `5 since 2+3=5` declare 5. Only what is known to change nothing is taken
away: `5 (or 6)`, `5 (if n is even)`, `5 (mod 7)`, `5 (at most)` stay as they are, and are no 5.
"""

from __future__ import annotations

import re

_TEXT = r"(?:\\(?:text|textrm|mathrm|mbox)\s*\{)?"
_OPEN = rf"\s*[,;:]?\s*{_TEXT}[\s,;:]*(?P<bracket>\(?)\s*{_TEXT}\s*"
_BY = (
    r"by (?:(?:the|our|a|an|its|this|part|step|case|equation|eq\.?|"
    r"[A-Z][a-zA-Z]*(?:['\u2019]s?)?|"  # one way to read each word, or the search would be exponential
    r"direct|strong|double|long|simple|linearity|mean|value|sign|chain|product|quotient|power|triangle|binomial|"
    r"remainder|factor|fundamental|intermediate|squeeze|ratio|root|comparison|divergence|limit|pigeonhole|quadratic|"
    r"cosine|sine|above|previous|first|second|inductive|similar|same)[ -])*"
    r"(?:symmetry|inspection|induction|definition|construction|computation|calculation|counting|substitution|"
    r"elimination|hypothesis|assumption|contradiction|convention|theorem|lemma|formula|rule|law|property|principle|inequality|"
    r"criterion|test|identity|argument|result|method|definition|symmetries|above|hand|parity|linearity|similarity|"
    r"congruence|periodicity|orthogonality|continuity|monotonicity|convexity|AM-GM|Vieta(?:['\u2019]s)?|Pythagoras|"
    r"Cauchy(?:-Schwarz)?|L['\u2019]H[o\u00f4]pital(?:['\u2019]s)?)\b"
)
_STATED = r"(?:required|desired|needed|expected|claimed|wanted|shown|stated|asserted|given|promised|above)"
_SURE = (  # of a bracket
    r"exactly|precisely|exact(?: value)?|double root|repeated root|(?:with )?multiplicity (?:two|2)|in total|total|"
    r"simplified|in (?:simplest|lowest) (?:form|terms)|verified|checked|as (?:above|before)|see above|"
    rf"as {_STATED}|from (?:above|part|step|case|equation|the)\b[^,;]*"
)
_REASON = re.compile(
    _OPEN + rf"(?P<why>(?:since|because|due to|thanks to|as {_STATED}|by |which is (?:what|the))(?:\b|(?<= )).*|"
    rf"(?:{_SURE})\s*\}}?\s*\)?\s*\}}?)$",
    re.DOTALL,
)
_BY_REASON = re.compile(
    rf"{_BY}|by (?:[Tt]heorem|[Ll]emma|[Pp]roposition|[Cc]orollary|[Pp]art|[Ss]tep|[Cc]ase|[Ee]quation) \}}?\(?\w"
)
_ENDS = re.compile(r"\w?[a-zA-Z'\u2019\-\s]*(?:\(?\d[\d.]*\)?)?[\s.]*\}?[\s.]*")  # of "by symmetry 2"
_GOES_ON = re.compile(r"\}\s*\)?\s*(?:[-+*/^!]|\\(?:cdot|times|pm|div)(?![a-zA-Z]))")  # a calculation behind it
_STARTS = re.compile(r"(?=[\s,;:(\\])(?<![\s,;:(])")
_DOUBT = re.compile(  # then it may be another answer, or none
    r"\b(?:or|but|if|unless|otherwise|else|except|maybe|perhaps|probably|possibly|instead|either|when|whenever|and so|"
    r"wrong|incorrect|sure|certain|guess\w*|assum(?:e|ed|ing)|while|whereas|however|than|though|although|depending|"
    r"neither|nor|both|approximate\w*|roughly|about|around|actually|wait|"
    r"so|thus|hence|therefore|then|plus|minus|times|squared|cubed|exact value)\b|[?;:]|\\(?:lor|vee)(?![a-zA-Z])"
    r"|(?:[,&]|\band\b)\s*(?:\\text\s*\{|\})?\s*(?:[a-z]\s*=\s*)?-?[\d\\$(]",  # another answer behind it
    re.IGNORECASE,
)
_IS_THE = re.compile(
    r"\s*(?:\\text\s*\{)?\s*is (?:the|our|an?) "
    r"(?:(?:only|unique|final|correct|required|desired|sole|real|positive|integer) )*"
    r"(?:solution|answer|root|value|zero|result)\s*\.?\s*\}?$"
)
_FOR_ALL = re.compile(
    r"(?:\s*,)?\s*(?:\\text\s*\{)?\s*(?:for (?:all|any|every)|where)\s*\}?\s*(?:\\text\s*\{\s*)?"
    r"(?:real (?:numbers? |values? of )?)?\}?\s*([a-z])\s*"
    r"(?:\\in\s*\\mathbb\{R\}|\\text\s*\{\s*is (?:any |a )?real(?: number)?\s*\}|\}|\s*)$"
)
_EQUALS_INSIDE = re.compile(r"\s*\(\s*=\s*([^()]*(?:\([^()]*\)[^()]*)*)\)$")
_NEARLY_INSIDE = re.compile(
    r"\s*\(\s*(?:\\approx(?![a-zA-Z])|(?:\\text\s*\{\s*)?(?:approximately|approx\.?|about|or about)\s*\}?)\s*"
    r"(-?\d+(?:\.\d+)?)\s*\)$"
)
_WHERE = r"\s*,\s*(?:\\text\s*\{\s*(?:where|for|with)?\s*\}\s*)?\(?"
_NOT_THERE = re.compile(_WHERE + r"([a-z])\s*\\ne(?![a-zA-Z])[^=<>]+$")
_FROM_ONE = re.compile(_WHERE + r"([nkm])\s*(?:\\ge\s*[012]|>\s*[01])\s*\)?$")


def without_remark(text: str) -> str:
    """A cleaned answer without what only justifies or describes it."""
    if not re.search(r"[a-zA-Z(=]", text):
        return text
    text = _EQUALS_INSIDE.sub(r"=\1", text)
    text = _NEARLY_INSIDE.sub(r"\\approx \1", text)
    if last := _IS_THE.search(text):
        return _closed(text[: last.start()]) or text
    for match in re.finditer(_STARTS, text):
        reason = _REASON.match(text, match.start())
        if reason is None:
            continue
        why = reason["why"]
        if reason["bracket"] and not _shut_at_end(f"({why}"):
            continue
        by = _BY_REASON.match(why)
        if why.startswith("by ") and (by is None or not (reason["bracket"] or _ENDS.fullmatch(why, by.end() - 1))):
            continue
        if _GOES_ON.search(why) or _DOUBT.search(why):
            return text
        head = _closed(text[: match.start()])
        return head if head and head != text and head.count("(") == head.count(")") else text
    return text


def for_all(text: str, gold: str) -> str:
    r"""`text` without a domain that the gold answer leaves out: `\text{for all }x`, `x\ne\pm1`."""
    for pattern in (_FOR_ALL, _NOT_THERE, _FROM_ONE):
        match = None if pattern.search(gold) else pattern.search(text)
        if match and match[1] in re.sub(r"\\[a-zA-Z]+", " ", text[: match.start()]):
            text = text[: match.start()].rstrip(" ,")
    return text


def _shut_at_end(text: str) -> bool:
    """Whether the bracket with which `text` begins is shut by its last one."""
    depth, body = 0, text.rstrip(" }.")
    for at, char in enumerate(body):
        depth += (char == "(") - (char == ")")
        if not depth:
            return at == len(body) - 1
    return False


def _closed(head: str) -> str:
    r"""`head` with the brace closed of a `\text{` that was cut open."""
    head = head.rstrip(" ,;:")
    return head + "}" * (head.count("{") - head.count("}")) if "\\text" in head else head


_COUNTS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_PARTS = ("half", "third", "quarter", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_SIZES = (2, 3, 4, 4, 5, 6, 7, 8, 9, 10)
_FRACTION = re.compile(  # one half, three quarters, two and a half, minus 8
    rf"(?:\\text(?:bf|it|rm)?\s*\{{\s*)?(minus|negative)?\s*(?:(?:({'|'.join(_COUNTS)}) and )?"
    rf"(?:(an?|{'|'.join(_COUNTS)})[ -])(halves|(?:{'|'.join(_PARTS)})s?)|\}}?\s*(\d+(?:\.\d+)?))\s*\}}?",
    re.IGNORECASE,
)


def spelled(text: str) -> str:
    """A fraction in words as `3/4`, "minus 8" as `-8`; else `text`. Whole numbers in words are not read."""
    match = _FRACTION.fullmatch(text)
    if match is None or (match[5] and not match[1]):
        return text
    sign, whole, count, part = ((group or "").lower() for group in match.groups()[:4])
    if not part:
        return f"-{match[5]}"
    size = _SIZES[_PARTS.index("half" if part == "halves" else part.removesuffix("s"))]
    over = (1 if count in ("a", "an") else _COUNTS.index(count) + 1) + size * (_COUNTS.index(whole) + 1 if whole else 0)
    return f"{'-' if sign else ''}{over}/{size}"
