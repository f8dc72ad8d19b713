r"""What stands behind a value: units, per cent, words of scale.

A unit is not compared: `5 cm`, `5 kg` and `5` are equal. A word of scale belongs to the value: `5 million` is
5,000,000. A word that changes or doubts the value is no unit: `5 squared`, `5 plus two`, `5 halves`, `5 probably`.
"""

from __future__ import annotations

import re

_SCALES = {
    "dozen": "12", "score": "20", "gross": "144", "hundred": "100", "thousand": "10^{3}", "lakh": "10^{5}",
    "million": "10^{6}", "crore": "10^{7}", "billion": "10^{9}", "trillion": "10^{12}", "tens": "10",
}  # fmt: skip
_SCALE = re.compile(r"(?<=[\d)}])\s*(?:(\\text\{)\s*)?(" + "|".join(_SCALES) + r")s?\b\s*(?(1)(\}|(?=[a-zA-Z]))|\}?)")
_POWER = r"(?:\s*\^\s*(?:\{\s*-?\d\s*\}|-?\d))?"
_MICRO = r"(?:\\mu\s*(?=\\(?:text|mathrm)\s*\{\s*[mgslLAFCVWJH]\s*\}))?"
_WRITTEN = rf"{_MICRO}\\(?:text|textrm|mathrm|mbox|operatorname)\s*\{{[^{{}}\d]*(?:\^\{{?-?\d\}}?)?\s*\}}{_POWER}"
_TYPED = r"(?:cm|mm|km|kg|mg|ml|mL|mi|ft|in|lbs?|oz|hrs?|yrs?|wks?|min|sec|mph|Hz|[ap]m|[AP]M|cents?|units?|\\Omega)"
_UNIT = re.compile(
    r"(?:"
    rf"(?<=[\w)}}!|%])\s*(?:\\frac\{{\s*{_WRITTEN}\s*\}}\{{\s*{_WRITTEN}\s*\}}"
    rf"|{_WRITTEN}(?:\s*(?:/|\\cdot)?\s*{_WRITTEN})*|\(\s*{_WRITTEN}\s*\))"
    rf"|(?:(?<=[\d)}}])|(?<=\\pi )|(?<=\\pi))\s*\(?(?:sq\.? |square |cubic )?{_TYPED}{_POWER}\)?"
    rf"|(?<=\s)[mgslh]{_POWER}"
    rf"|(?<=[\d)}}\s])\s(?:of (?:them|these|those)|in (?:total|all))"
    rf"|(?<=[\d)}}\s%])\s(?:of (?:the )?)?[a-zA-Z]{{3,}}(?:[ /-][a-zA-Z]+)*{_POWER}"
    r")$"
)
_NO_UNIT = re.compile(  # changes the value, or doubts it
    r"\b(?:or|and|nor|not|no|but|maybe|perhaps|possibly|else|plus|minus|times|over|by|to|into|versus|vs|point|mod|modulo|"
    r"squared|cubed|factorial|fold|tenfold|twofold|inverse|negative|half|halves|quarters?|thirds?|more|less|fewer|least|most|"
    r"above|below|under|wrong|incorrect|false|unsure|guess\w*|because|since|approx|about|around|instead|either|unless|if|when|except|"
    r"ones?|twos?|threes?|fours?|fives?|six|sevens?|eights?|nines?|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|eighteen|nineteen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|"
    r"dozen|hundreds?|thousands?|millions?|billions?|trillions?|lakhs?|crores?|tens|pi|root|sqrt|is|isn|was|wait|question|st|nd|rd|th|"
    r"followed|then|through|before|after|as|bounds?|"
    r"\w+(?:ths|th|ly|illions?))\b",
    re.IGNORECASE,
)
_UNITS_IN_TH = re.compile(  # "ly", "th": what is doubted there, and counted or measured here
    r"\b(?:months?|weekly|daily|monthly|yearly|hourly|family|supply|assembly|depths?|lengths?|widths?|youth|earth|cloths?|"
    r"moths?|tooth|mouth|births?)\b",
    re.IGNORECASE,
)
_RESIDUE = re.compile(  # in brackets; "5 mod 3" without them is 2
    r"\s*(?:\\pmod\s*\{?\s*(\d+)\s*\}?|(?:\(\s*\\(?:text|mathrm)\s*\{|\\(?:text|mathrm)\s*\{\s*\()\s*mod\s*\}?\s*(\d+)\s*\}?\s*\)\s*\}?)$"
)
_RADIANS = re.compile(r"(?:\\(?:text|mathrm)\s*\{\s*|(?<=[\d)} ]))(?:radians?|rads?)\b\s*\}?$")
_PERCENT = re.compile(r"\s*\\?%$")
_ENDS_IN_TEXT = re.compile(r"\\(?:text|textrm|mathrm|mbox)\s*\{[^{}]*\}\s*$")
_DEGREES = "^{\\circ}"


def plain(text: str, unit: str = "") -> tuple[str, bool]:
    """`text` without its unit, words of scale as factors; and whether it is in per cent.

    Args:
        text: a cleaned answer.
        unit: of the gold answer: what is no unit elsewhere is one behind it (`5m` for `5\\text{ m}`).
    """
    text = _RESIDUE.sub("", text.removesuffix(_DEGREES) if in_degrees(text) else text).strip()
    text = _SCALE.sub(
        lambda match: f"\\cdot {_SCALES[match[2]]} {match[1] if match[1] and not match[3] else ''}", text
    ).strip()
    if "/" in unit and text.endswith("}"):  # \\frac{m}{s} for m/s
        text = re.sub(r"(?<=[\d)}\s])\\frac\s*\{([a-zA-Z]+)\}\s*\{([a-zA-Z]+)\}$", r" \1/\2", text)
    if unit and re.search(r"[\d)}\s]$", text[: -len(unit)]) and text.endswith(unit):
        text = text[: -len(unit)].strip()
    match = _UNIT.search(text)
    if match and not _NO_UNIT.search(_UNITS_IN_TH.sub(" ", match[0])):
        text = text if _ENDS_IN_TEXT.search(text[: match.start()]) else text[: match.start()].strip()
    percent = _PERCENT.search(text)
    return (text[: percent.start()], True) if percent else (text, False)


def modulus_of(text: str) -> str:
    r"""The m of `5 \pmod{m}`; "" where there is none."""
    match = _RESIDUE.search(text)
    return (match[1] or match[2]) if match else ""


def in_degrees(text: str) -> bool:
    r"""Whether degrees are the unit of `text`, and not of an angle within: `6\sin 30^\circ`."""
    return text.endswith(_DEGREES) and not re.search(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])", text)


def in_radians(text: str) -> bool:
    """Whether radians are written out as its unit."""
    return _RADIANS.search(text) is not None


def unit_of(text: str) -> str:
    r"""The unit that `text` ends with, as it would be typed without `\text`."""
    match = _UNIT.search(text)
    return re.sub(r"\\(?:text|textrm|mathrm|mbox)\s*\{\s*([^{}]*?)\s*\}", r"\1", match[0]).strip() if match else ""
