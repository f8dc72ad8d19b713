r"""The answer that a response declares, and how it is cleaned before anything reads it as mathematics.

Only a declaration counts: the last `\boxed{…}`, else what follows the last `####`, else what follows the last
"answer is", "Answer:" or "A:". A number that merely stands somewhere in the text was not given as the answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
BOX = re.compile(r"\\(?:f|frame)?box(?:ed)?\s*(?=\{)|\\boxed\s+(?=[^\s{])")
HASHES = re.compile(r"#{4,}[ \t]*:?[ \t]*")
PROSE = re.compile(
    r"(?:\b(?:so|thus|hence|therefore),?\s+)?(?:\*\*|__|\*)?"
    r"(?<![a-zA-Z])(?:(?:the|our|my)\s+)?(?:final\s+|correct\s+|best\s+)?"
    r"(?:answers?(?:\s+to\s+(?:the|this)\s+(?:problem|question))?|(?<=final )result|(?<=correct )(?:option|choice))"
    r"(?![a-zA-Z])(?:\*\*|__|\*)?\s*"
    r"(?:(?:is|are|(?:would|must|should|will)\s+be)\b(?:\s+(?:therefore|thus|then|hence))?\s*:?"
    r"|equals?\b|[:\uff1a=]|[-\u2013\u2014](?=\s)|,(?=[^,\n]{1,40},\s+is\b))"
    r"(?:\*\*|__|\*)?"
    r"|^(?:#{1,3}[ \t]*|\*\*)(?:the\s+)?(?:final\s+)?answer(?:\*\*)?[ \t]*$|^\*\*(?:final\s+)?answer\.\*\*"
    r"|答案\s*(?:是|为|[:\uff1a])|<answer>|^(?:\*\*)?A:",
    re.IGNORECASE | re.MULTILINE,
)
FORMS = ("boxed", "hashes", "words")  # of a declaration, in the order in which they count
_REASON = re.compile(
    r"(?:,\s+not|,?\s+rather\s+than|,?\s+instead\s+of)\s+(?=[\d$\\(*-]).*|"
    r"(?<!\bor)(?:,|:)?\s+(?:because|since|as|so|which|where|given|is\s+final|q\.\s?e\.\s?d)\b.*|</answer>.*",
    re.DOTALL | re.I,
)
_SENTENCE = re.compile(r"[.!](?=\s|$)")  # a question declares nothing: "5? No."
_BETWEEN = re.compile(  # boxes that together are the answer: \boxed{1}, \boxed{2}; x=\boxed{1} and y=\boxed{2}
    r"[\s$]*(?:,?\s*(?:and|or)|,|;|,?\s*\\text\{\s*(?:and|or)\s*\}|\\(?:quad|qquad|lor|vee)|\\[,; ])?"
    r"[\s$]*(\w\s*=\s*)?[\s$]*"
)
_LETTER = re.compile(r"[*_$(\[]*[A-Z][*_$)\]]*[.:](?=\s)")  # a choice before its wording, which is no new sentence
_BOXES = 8  # at most, that together are one answer
_LINE = 1_024  # characters of a line that are searched for a reason: the search is quadratic in blanks
_BOLD = re.compile(r"(?<![\w)}*])\*\*(?=[^\s*])([^*\n]*[^\s*])\*\*(?![\w*])")  # within a sentence, and no power
_BOLD_END = re.compile(  # "**Answer: yes**, it converges": what is bold was declared, unless more is said of it
    r"\*\*(?=[\s.,;:]|$)(?!.*(?:\d|\b(?:or|and|not?|but|if|unless|maybe|perhaps|wrong|incorrect)\b)).*$",
    re.IGNORECASE | re.DOTALL,
)
_THERE_ARE = re.compile(  # before a number; changes nothing
    r"^(\\text\s*\{\s*)?(?i:there (?:is|are|exist)\s+)?(?i:(?:exactly|precisely|simply|just|a total of|equal to)\s*)?"
    r"(?(1)\s*\}|\b)\s*(?=[\d\\(.-])"
)
_SURROGATE = re.compile("[\ud800-\udfff]")  # half a character, which no file can hold
_LAST_NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?(?:/\d+)?%?")

# One character for one, so that positions in a text survive.
SAME_LENGTH = str.maketrans({"\u2212": "-", "\u2010": "-", "\u2011": "-", "\u00a0": " ", "\u202f": " ", "\u2009": " "})
_GREEK = "alpha beta gamma delta theta lambda mu rho sigma phi omega"
_OVER, _UNDER = "112131234151357", "233445555668888"
_SYMBOLS = str.maketrans(
    {
        **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff✅✓✔∎", ""),
        **{chr(0xFEE0 + code): chr(code) for code in range(0x21, 0x7F)},  # full width
        **dict(zip("αβγδθλμρσφω", (rf"\{name} " for name in _GREEK.split()), strict=True)),
        **{char: rf"\frac{over}{under}" for char, over, under in zip("½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞", _OVER, _UNDER, strict=True)},
        **dict(zip("×·⋅÷π∞°±≤≥≠≈∪∩∈∅∨→√", (
            r"\times ", r"\cdot ", r"\cdot ", "/", r"\pi ", r"\infty ", r"^{\circ}", r"\pm ", r"\le ", r"\ge ", r"\ne ",
            r"\approx ", r"\cup ", r"\cap ", r"\in ", r"\emptyset ", r"\lor ", r"\to ", r"\sqrt ",
        ), strict=True)),
        **dict.fromkeys("⩽≦", r"\le "), **dict.fromkeys("⩾≧", r"\ge "), **dict.fromkeys("⁄∕", "/"), "Ø": r"\emptyset ",
        "∛": r"\sqrt[3]", "∜": r"\sqrt[4]", "ℝ": r"\mathbb{R}", "⟨": r"\langle ", "⟩": r"\rangle ",
        "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"',
    }
)  # fmt: skip
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n")
_LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_WRAPPERS = (("**", "**"), ("__", "__"), ("`", "`"), (r"\(", r"\)"), (r"\[", r"\]"), ('"', '"'), ("*", "*"))
_FONT = (
    r"\\(?:ensuremath|mathbf|boldsymbol|bm|mathit|mathsf|mathcal|mathtt|textbf|textit|textsf|texttt|emph|underline|boxed)"
    r"\s*(?=\{)"
)
_REWRITES = tuple(
    (re.compile(pattern), new)
    for pattern, new in (
        (
            r"\\(?:left|right|[bB]igg?[lrm]?|(?:display|text|script)style|limits|rm|bf|it|[lL]arge|huge|small)(?![a-zA-Z])",
            "",
        ),
        (
            r"\\(?:hspace|vspace|h?phantom|color|textcolor)\*?\s*\{[^{}]*\}|\\(?:checkmark|blacksquare|square)(?![a-zA-Z])",
            "",
        ),
        (r"\\(?:[dtc]|nice|s)frac(?![a-zA-Z])", r"\\frac"),
        (r"\^\{?(\d+)\}?/_\{?(\d+)\}?", r"\\frac{\1}{\2}"),
        (r"(?<![\d.\s])\\text\s*\{\s*(-?\d+(?:\.\d+)?)\s*\}", r"\1"),
        (r"\\text\s*\{\s*([,;])\s*\}", r"\1 "),
        (r"\\mathbb\s*([A-Z])", r"\\mathbb{\1}"),
        (r"^(\\text\s*\{\s*)?(?:\\textdollar|USD|EUR|GBP|INR|Rs\.?|US)\s*(?(1)\})\s*(?=\\?\$?\d)", ""),
        (r"\{([,:=])\}|(?<![\\a-zA-Z}^_\]])\{([<>+-])\}", r"\1\2"),
        (r"\\!", ""),
        (r"(?<!\\)\\[,;: ]|~|\\q?quad(?![a-zA-Z])|\\hfill\b", " "),
        (r"\\?\$|[€£¥]|\\(?:pounds|euro)(?![a-zA-Z])", ""),
        (r"(?<!\\)\bsqrt\s*(?=\()|(?<=\d)sqrt\s*(?=\()", r"\\sqrt"),
        (r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"\\degree(?![a-zA-Z])|\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-zA-Z]))", "^{\\\\circ}"),
        (r"\\(?:text|mathrm)\s*\{\s*(\^\{\\circ\}\s*[CF]?)\s*\}", r"\1"),
        (r"(?<=\d)\s*(\\text\s*\{\s*)?degrees?\s*(?(1)\})$", "^{\\\\circ}"),
        (r"\^\{\\circ\}\s*(?:\\(?:text|mathrm|textrm)\s*\{\s*[CF]\s*\}|[CF]\b)", "^{\\\\circ}"),
        (r"(?<=\d)\s*(\\(?:text|mathrm|textrm)\s*\{\s*)?(?:per\s?cent\b|\\?%)\s*(?(1)\})(?=\s*$)", "%"),
        (r"(?<=\d)\s*per\s?cent\b", "%"),
        (r"_\{(\w)\}", r"_\1"),
        (
            r"\\(?:mathrm|textrm|text|operatorname)\s*\{\s*([ei]|ln|lg|log|exp|sin|cos|tan|cot|floor|ceil|arc(?:sin|cos|tan))\s*\}(?=\W|\d|$)",
            r" \\fn\1 ",
        ),
        (r"\\fn([ei])\b", r"\1"),
        (r"\\fn", r"\\"),
        (r"\\(?:leq|leqslant)(?![a-zA-Z])|<=", r"\\le "),
        (r"\\(?:geq|geqslant)(?![a-zA-Z])|>=", r"\\ge "),
        (r"\\neq(?![a-zA-Z])|\\not\s*=|!=(?!=)", r"\\ne "),
        (r"\\gt(?![a-zA-Z])", ">"),
        (r"\\lt(?![a-zA-Z])", "<"),
        (r"\\bigcup(?![a-zA-Z])", r"\\cup"),
        (r"\\(?:varnothing)(?![a-zA-Z])|\\\{\s*\\\}", r"\\emptyset "),
        (r"\\(?:lvert|rvert|vert|mid)(?![a-zA-Z])", "|"),
        (r"\\colon(?![a-zA-Z])", ":"),
        (r"\\lbrace(?![a-zA-Z])", r"\\{"),
        (r"\\rbrace(?![a-zA-Z])", r"\\}"),
        (r"(?<=[\w)}])\s?\*\*\s?(?=[\w({-])", "^"),
        (r"(?<=\d)\s*[xX]\s*(?=10\s*\^)", r"\\times "),  # 2.5 x 10^{-4}
        (r":=", "="),
        (r"^([a-zA-Z])\s*:\s*([a-z])\s*(?:\\mapsto(?![a-zA-Z])|\|->)\s*", r"\1(\2)="),
        (r"(?<=[a-zA-Z])\.(?=\s*\}\s*$)", ""),
        (r"(?<![a-zA-Z])([aApP])\.\s?[mM]\b\.?", r"\1m"),
        (r"(\d\.)\((\d+)\)", r"\1\\overline{\2}"),
        (r"_\{\((\d+)\)\}|(?<=\w)\s*(?:\\text\s*\{\s*)?\(?(?:in )?base\s*\}?\s*(\d+)\s*\)?\s*\}?$", r"_{\1\2}"),
        (r"\\text\s*\{\s*infinity\s*\}|\binfinity\b", r"\\infty"),
        (
            r"(?<![a-zA-Z\\])(?:\\mathrm\{C\}|C)\((\d+),\s*(\d+)\)|(?:\{\})?(?:\^|_)\{?(\d+)\}?C_\{?(\d+)\}?"
            r"|(?<![\w\\}])C_\{?(\d+)\}?\^\{?(\d+)\}?(?=[^a-zA-Z]*$)",
            r"\\binom{\1\3\5}{\2\4\6}",
        ),
        (r"^\\text\s*\{\s*an?\s*\}\s*(?=\d)", ""),
        (r"^(\d{1,3})\s?C\s?(\d{1,3})$", r"\\binom{\1}{\2}"),
        (  # 24 dollars and 50 cents
            r"^(?:\\text\s*\{\s*)?(\d+)\s*(?:\\text\s*\{\s*)?dollars?(?:,? and|,)?\s*\}?\s*"
            r"(\d\d)\s*(?:\\text\s*\{\s*)?cents?\s*\}?$",
            r"\1.\2",
        ),
        (r"^<([^<>]*,[^<>]*)>$", r"(\1)"),
        (r"\\langle(?![a-zA-Z])", "("),
        (r"\\rangle(?![a-zA-Z])", ")"),
        (r"^\\text(?:bf|rm)?\s*\{\s*(?i:(?:the |final |correct )*answer\s*(?:is|:)?)\s*:?\s*\}", ""),
        (r"\\text\s*\{\s*(?:is|equals)\s*\}", "="),
        (
            r"(?:\\text\s*\{\s*)?\ball real(?: number)?s?(?: \w)?,? (?:except|other than)(?: for)?\s*\}?\s*"
            r"(?:\w\s*(?:=|\\ne)\s*)?([^,;{}]+(?:\{[^{}]*\})*)$",
            r"\\mathbb{R}\\setminus\\{\1\\}",
        ),
        (r"\\mathbb\{R\}\s*[-/]\s*(?=\\\{)", r"\\mathbb{R}\\setminus"),
        (r"(^|\\cup\s*|\\in\s*)\](?=[^\[\]]*,)", r"\1("),  # ]-1, 2[ is (-1, 2)
        (r"(,[^\[\](),]*)\[(?=\s*(?:\\cup|$))", r"\1)"),
        (
            r"^\\text\s*\{\s*(?:the )?"
            r"(?:point|origin|vertex|cent(?:er|re)|vector|(?:ordered )?pair|coordinates|interval|set)s?"
            r"(?: (?:is|are|at))?:?\s*\}\s*(?=[(\[]|\\\{)",
            "",
        ),
        (r"\s+", " "),
    )
)
_SYSTEM = re.compile(r"\\begin\{(cases|aligned|array|gathered)\}(?:\{[lcr|]*\})?(.*)\\end\{\1\}", re.DOTALL)
_REPEATING = re.compile(r"(?<![\d.])(\d*\.\d*?)((\d{1,6}?)\3+)(?:\.\.\.|\\[lc]?dots|…)$")  # 0.41666...
_SPELLED_OUT = re.compile(r"\\(?:text|textrm|mathrm|mbox)\s*(?=\{)")
_NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety"
)
_WORDS = dict(zip(_NUMBER_WORDS.split(), [*range(21), *range(30, 100, 10)], strict=True))
_SAID_TWICE = re.compile(r"([a-zA-Z]+(?:-[a-z]+)?) \((\d{1,9})\)|(\d{1,9}) \(([a-zA-Z]+(?:-[a-z]+)?)\)")  # five (5)
_BASE = re.compile(r"_\{\s*\\text\s*\{\s*(" + "|".join(_WORDS) + r")\s*\}\s*\}")
_THOUSANDS = re.compile(r"(?<![\d.,])(\d{1,3})((?:[, ]\d{3})+)(?![\d,]|\s\d)")


def declared_answer(response: str, *, forms: Sequence[str] = FORMS, lenient: bool = False) -> str | None:
    """The text that `response` gives as its answer, uncleaned; None when it declares none.

    What stands before the last `</think>` does not count; a thinking block that never closes hides nothing.

    Args:
        response: what the policy wrote, thinking included.
        forms: of FORMS, those that count as a declaration.
        lenient: True = a response without a declaration gives its last number.
    """
    text = _SURROGATE.sub("\ufffd", response.rpartition(THINK_CLOSE)[2].translate(SAME_LENGTH))
    for form, pattern, read in (("boxed", BOX, box_content), ("hashes", HASHES, _rest), ("words", PROSE, _said)):
        matches = list(pattern.finditer(text)) if form in forms else []
        if matches:  # the last one; a box that never closes was cut off and declares nothing
            found = (read(text, matches[-1].end()) or "").strip()
            again = PROSE.match(found) if form == "hashes" else None
            return (_together(text, matches) if form == "boxed" else found[again.end() :] if again else found) or None
    numbers = _LAST_NUMBER.findall(text) if lenient else []
    return numbers[-1] if numbers else None


def box_content(text: str, start: int) -> str | None:
    """What the braces hold that open at `start`, or the one token there; None when they never close."""
    if text[start : start + 1] != "{":
        return text[start:].split(maxsplit=1)[0].rstrip("$.,") if text[start:].strip() else None
    depth = 0
    for at in range(start, len(text)):
        if text[at] in "{}" and (at - len(text[:at].rstrip("\\")) if text[at - 1] == "\\" else 0) % 2 == 0:
            depth += 1 if text[at] == "{" else -1
            if not depth:
                return text[start + 1 : at]
    return None


def split_outside(text: str, separator: re.Pattern[str]) -> list[str]:
    """The parts of `text` between separators that stand in no brackets."""
    parts, start, depth, at = [], 0, 0, 0
    while at < len(text):
        match = separator.match(text, at) if not depth else None
        if match:
            parts.append(text[start:at].strip())
            start = at = match.end()
            continue
        depth += (text[at] in "([{") - (text[at] in ")]}")
        at += 1
    return [*parts, text[start:].strip()]


def _together(text: str, matches: Sequence[re.Match[str]]) -> str:
    """The content of the last box, after those of the boxes that it only continues as a list."""
    parts: list[str] = []
    start = len(text)
    for match in reversed(matches[-_BOXES:]):
        content = box_content(text, match.end())
        if content is None:
            break
        end = match.end() + len(content) + 2
        between = _BETWEEN.fullmatch(text, end, start) if parts and text[match.end()] == "{" else None
        if parts and (between is None or end > start):
            break
        if between and between[1]:
            parts[0] = between[1] + parts[0]
        parts.insert(0, content.strip())
        start = match.start()
    if len(parts) > 1:
        name = re.search(r"(?<![\w\\])(\w\s*=\s*)$", text[max(0, start - 8) : start])
        parts[0] = (name[1] if name else "") + parts[0]
    return ", ".join(parts) if len(dict.fromkeys(parts)) > 1 else parts[0] if parts else ""


def line_content(text: str, start: int) -> str:
    """The rest of the line at `start`; where that is blank or mere mark-up, the next line that is not."""
    for line in text[start:].split("\n"):
        if line.strip(" \t\r*:$"):
            return line
    return ""


def clean(text: str, *, thousands: bool = True) -> str:
    """`text` without mark-up, currency and spacing commands; the mathematics unchanged.

    Args:
        text: what was declared.
        thousands: True = `1,234` is a number; False = it is two.
    """
    text = re.sub(r"^\s*\u2013(?=\s*[\d.\\])", "-", text).translate(SAME_LENGTH)
    text = re.sub(r"([√∛∜])(\d+(?:\.\d+)?)", r"\1{\2}", text)
    text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ]+", lambda match: f"^{{{match[0].translate(_RAISED)}}}", text)
    text = re.sub(r"[₀₁₂₃₄₅₆₇₈₉]+", lambda match: f"_{{{match[0].translate(_LOWERED)}}}", text).translate(_SYMBOLS)
    text = re.sub(
        r"\\(?:mathbf|hat|vec|boldsymbol|bm)(?:\s*\{\s*(?:\\mathbf\s*\{)?\\?([ijk])(?:math)?\s*\}?\s*\}|\s+([ijk])\b)",
        r"\\unit_\1\2 ",
        text,
    )
    text = _unwrap(re.sub(r"\*\*(?=\s*$)|^\s*\*\*", "", _BOLD.sub(r"\1", text)))
    text = _REPEATING.sub(_repeated, text.strip(" $"))
    system = _SYSTEM.fullmatch(text.strip())
    rows = [row.replace("&", "") for row in re.split(r"\\\\", system[2]) if row.strip()] if system else []
    if rows and all(
        row.count("=") == 1 and not re.search(r"[,<>]|\\text", row) for row in rows
    ):  # no function by cases
        text = ", ".join(rows)
    for pattern, new in _REWRITES:
        text = pattern.sub(new, text)
    previous = None
    while text != previous:
        previous = text
        if re.search(r"\.\.|\\[lc]?dots\b", text[-8:]):  # and so on: no answer ends so
            break
        text = text.strip(" .,;:") if not re.match(r"\s*\.\d", text) else text.rstrip(" .,;:")
        text = re.sub(r"(?:\\\\|\\\.|\\text\{[ .]*\}|\\)+$", "", text).rstrip() if not text.endswith(r"\}") else text
        for mark, close in _WRAPPERS:
            inner = text[len(mark) : -len(close)]
            if text.startswith(mark) and text.endswith(close) and inner and mark not in inner:
                text = inner
        for head in (BOX.match(text), _SPELLED_OUT.match(text), re.match(r"(?=\{)", text)):
            if head and box_content(text, head.end()) == text[head.end() + 1 : -1]:
                inner = text[head.end() + 1 : -1]
                if re.search(r"\\(?:choose|over)(?![a-zA-Z])", inner):
                    continue
                if head.re is not _SPELLED_OUT or re.search(r"\d", inner) or PROSE.match(inner):
                    text = inner
        declared = PROSE.match(text)
        text = text[declared.end() :] if declared else text
    text = _THERE_ARE.sub("", text.strip(" ="))
    text = _BASE.sub(lambda match: f"_{{{_WORDS[match[1]]}}}", text)
    number = _SAID_TWICE.fullmatch(text)
    spelled = [_WORDS.get(word, -999) for word in (number[1] or number[4]).lower().split("-")] if number else []
    if number and sum(spelled) == int(number[2] or number[3]):
        text = number[2] or number[3]
    if thousands and not text.startswith(("(", "[", "\\{")):
        text = _THOUSANDS.sub(lambda match: match[1] + re.sub("[, ]", "", match[2]), text)
    return text


def _repeated(match: re.Match[str]) -> str:
    """A decimal that is seen to repeat: a digit three times, more digits twice."""
    shown = len(match[2]) >= 3 or len(match[3]) > 1
    return f"{match[1]}\\overline{{{match[3]}}}" if shown else match[0]


def _unwrap(text: str) -> str:
    """`text` without commands that only set a font; what they held stays, in braces where it has to."""
    while match := re.search(_FONT, text):
        content = box_content(text, match.end())
        if content is None:
            return text
        end = match.end() + len(content) + 2
        joined = match.start() and text[match.start() - 1] in "^_"
        text = text[: match.start()] + (f"{{{content}}}" if joined else content) + text[end:]
    return text


def _rest(text: str, start: int) -> str:
    return text[start:].split("\n")[0]


def _said(text: str, start: int) -> str:
    line = line_content(text, start).strip()[:_LINE]
    if text[text.rfind("\n", 0, start) + 1 : start].count("**") % 2:
        line = _BOLD_END.sub("", line)
    return _REASON.sub("", line if _LETTER.match(line) else _SENTENCE.split(line)[0])


# The letter alone, in brackets, or before the wording of its option: "B", "(B)", "B) 5 cm", "Option B: 5 cm".
_CHOICE = re.compile(
    r"(?i:(?:option|choice|answer)\s*:?\s*)?[\[(]?\s*([A-Z])\s*[\])]?(?:\s*[.:)]\s*(.*)|\s+(?=[(\d\u2013-])(.*)|\s*)",
    re.DOTALL,
)
_ANOTHER = re.compile(  # letter in what follows a choice: "C", "A, C", "5 cm or C) 6 cm", "also C"
    r"\b(?i:or|and|also|maybe)\b.*\b[A-Z]\b|(?<![\w.])[\[(]?[A-Z]\s*[).:\]]|^[\W_]*(?:[A-Z][\W_]+)*[A-Z][\W_]*$",
    re.DOTALL,
)


def choice_of(text: str) -> str | None:
    """The letter that `text` chooses; None = none, or more than one."""
    text = re.sub(r"\\(?:text|textrm|mathrm|mbox|operatorname)\s*\{([^{}]*)\}", r"\1", text)
    bare = clean(text).replace("**", "").strip('{}$ ."')
    bare = bare.upper() if re.fullmatch(r"\(?[a-z]\)?", bare) else bare  # "b" chooses B
    match = _CHOICE.fullmatch(bare)
    return match[1] if match and not _ANOTHER.search(match[2] or match[3] or "") else None
