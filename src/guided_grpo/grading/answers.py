r"""The answer that a response declares, and how it is cleaned before anything reads it as mathematics.

Only a declaration counts: the last `\boxed{…}`, else what follows the last `####`, else what follows the last
"answer is", "Answer:" or "A:". A number that merely stands somewhere in the text was not given as the answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
BOX = re.compile(r"\\f?box(?:ed)?\s*(?=\{)|\\boxed\s+(?=[^\s{])")
HASHES = re.compile(r"#{4,}[ \t]*:?[ \t]*")
PROSE = re.compile(
    r"(?:\b(?:so|thus|hence|therefore),?\s+)?(?:\*\*)?\b(?:the\s+)?(?:final\s+|correct\s+)?answer\b(?:\*\*)?\s*(?:is\b\s*:?|:|=)(?:\*\*)?"
    r"|^(?:\*\*)?A:",
    re.IGNORECASE | re.MULTILINE,
)
FORMS = ("boxed", "hashes", "words")  # of a declaration, in the order in which they count
_REASON = re.compile(r",?\s+(?:because|since|as|so|which|where|given)\b.*", re.DOTALL)
_SENTENCE = re.compile(r"[.!?](?=\s|$)")
_LINE = 1_024  # characters of a line that are searched for a reason: the search is quadratic in blanks
_LAST_NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?(?:/\d+)?%?")

# One character for one, so that positions in a text survive.
SAME_LENGTH = str.maketrans({"\u2212": "-", "\u2010": "-", "\u2011": "-", "\u00a0": " ", "\u202f": " ", "\u2009": " "})
_SYMBOLS = str.maketrans(
    {
        **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff", ""),
        "×": r"\times ",
        "·": r"\cdot ",
        "⋅": r"\cdot ",
        "÷": "/",
        "π": r"\pi ",
        "∞": r"\infty ",
        "°": r"^{\circ}",
        "±": r"\pm ",
        "≤": r"\le ",
        "≥": r"\ge ",
        "∪": r"\cup ",
        "½": r"\frac12",
        "¼": r"\frac14",
        "¾": r"\frac34",
        "²": "^2",
        "³": "^3",
    }
)
_WRAPPERS = (("**", "**"), ("__", "__"), ("`", "`"), (r"\(", r"\)"), (r"\[", r"\]"))
_REWRITES = tuple(
    (re.compile(pattern), new)
    for pattern, new in (
        (r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|limits)(?![a-zA-Z])", ""),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\{,\}", ","),
        (r"\\!", ""),
        (r"(?<!\\)\\[,;: ]|~|\\q?quad(?![a-zA-Z])", " "),
        (r"\\?\$|[€£¥]|\\(?:pounds|euro)(?![a-zA-Z])", ""),
        (r"(?<!\\)\bsqrt\s*(?=\()", r"\\sqrt"),
        (r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"\\degree(?![a-zA-Z])|\^\s*\{?\s*\\circ(?![a-zA-Z])\s*\}?", "^{\\\\circ}"),
        (r"(?<=\d)\s*per\s?cent\b", "%"),
        (r"_\{(\w)\}", r"_\1"),
        (r"\s+", " "),
    )
)
_THOUSANDS = re.compile(r"(?<![\d.,])(\d{1,3})((?:[, ]\d{3})+)(?![\d,]|\s\d)")


def declared_answer(response: str, *, forms: Sequence[str] = FORMS, lenient: bool = False) -> str | None:
    """The text that `response` gives as its answer, uncleaned; None when it declares none.

    What stands before the last `</think>` does not count; a thinking block that never closes hides nothing.

    Args:
        response: what the policy wrote, thinking included.
        forms: of FORMS, those that count as a declaration.
        lenient: True = a response without a declaration gives its last number.
    """
    text = response.rpartition(THINK_CLOSE)[2].translate(SAME_LENGTH)
    for form, pattern, read in (("boxed", BOX, box_content), ("hashes", HASHES, _rest), ("words", PROSE, _said)):
        matches = list(pattern.finditer(text)) if form in forms else []
        if matches:  # the last one; a box that never closes was cut off and declares nothing
            return (read(text, matches[-1].end()) or "").strip() or None
    numbers = _LAST_NUMBER.findall(text) if lenient else []
    return numbers[-1] if numbers else None


def box_content(text: str, start: int) -> str | None:
    """What the braces hold that open at `start`, or the one token there; None when they never close."""
    if text[start : start + 1] != "{":
        return text[start:].split(maxsplit=1)[0].rstrip("$.,") if text[start:].strip() else None
    depth = 0
    for at in range(start, len(text)):
        if text[at] in "{}" and text[at - 1] != "\\":
            depth += 1 if text[at] == "{" else -1
            if not depth:
                return text[start + 1 : at]
    return None


def line_content(text: str, start: int) -> str:
    """The rest of the line at `start`; where that is blank or mere mark-up, the next line that is not."""
    for line in text[start:].split("\n"):
        if line.strip(" \t\r*:$"):
            return line
    return ""


def clean(text: str) -> str:
    """`text` without mark-up, currency, spacing commands and thousands separators; the mathematics unchanged."""
    text = re.sub(r"^\s*\u2013(?=\s*[\d.\\])", "-", text).translate(SAME_LENGTH).translate(_SYMBOLS)
    for pattern, new in _REWRITES:
        text = pattern.sub(new, text)
    previous = None
    while text != previous:
        previous = text
        text = text.strip(" .,;:") if not re.match(r"\s*\.\d", text) else text.rstrip(" .,;:")
        for mark, close in _WRAPPERS:
            inner = text[len(mark) : -len(close)]
            if text.startswith(mark) and text.endswith(close) and inner and mark not in inner:
                text = inner
        match = BOX.match(text)
        if match and box_content(text, match.end()) == text[match.end() + 1 : -1]:
            text = text[match.end() + 1 : -1]
    text = text.strip(" =")
    if not text.startswith(("(", "[", "\\{")):
        text = _THOUSANDS.sub(lambda match: match[1] + re.sub("[, ]", "", match[2]), text)
    return text


def _rest(text: str, start: int) -> str:
    return text[start:].split("\n")[0]


def _said(text: str, start: int) -> str:
    line = line_content(text, start).strip()[:_LINE]
    return _REASON.sub("", _SENTENCE.split(line)[0])
