"""Where the program of a response stands: in its last fenced block that is one, or in all of it.

By lines and regular expressions alone: what a policy wrote is never parsed in the trainer's process.
"""

from __future__ import annotations

import builtins
import re

from guided_grpo.grading.answers import THINK_CLOSE

# How a program begins, behind blanks, comments and decorators: a response without any block is one where it begins so.
_BARE = re.compile(
    r"(?>\s*(?:[#@][^\n]*\n\s*)*)(?:"
    r"(?:def|class|async def|for|while|if|try|with)\b[^\n]*:|import\s|from\s+\S+\s+import\b"
    r"|print\(|[rRuU]?(?:\"\"\"|\'\'\')|sys\.\w+\("
    r"|[A-Za-z_][\w.]{0,99}\s*(?:(?::\s*[\w.]{1,99}(?:\[[^\n=]{0,99}\])?\s*)|[+*|&^-])?=(?!=)"
    r"|[A-Za-z_]\w{0,99}(?:\s*,\s*\*?[A-Za-z_]\w{0,99}){1,9}\s*=(?!=))"
)
_FENCE = re.compile(r"(?:<answer>)?([ \t]*)(`{3,}|~{3,})(.*)", re.DOTALL)
_DEFINES = re.compile(
    r"^(?:[ \t]*)(?:async def|def|class)\b|^[A-Za-z_]\w* *= *lambda\b|\binput\(|\bstdin\b|\bopen\(0", re.MULTILINE
)
_PYTHON = re.compile(r"(?:i?py(?:thon)?|pypy)[\d.]{0,9}|")
_TAGS = re.compile(r"\A\s*<(?:answer|code)>\n?|</(?:answer|code)>\s*\Z")
_QUOTED = re.compile(r"^> ?(?=[ \t]*(?:`{3}|~{3}))", re.MULTILINE)  # a quotation that holds a block
_DEFINED = re.compile(r"^(?:async def|def|class)[ \t]+(\w+)", re.MULTILINE)
_HELPERS = 17  # blocks at most that are looked at, the last one among them: the search is quadratic
_BUILTINS = frozenset(dir(builtins))


def declared_code(response: str) -> str | None:
    """The program of `response`, after its thinking: its last closed block of Python, or all of it where there is no
    block and it begins like a program; None = there is none.

    A block that defines nothing and reads nothing, such as a printout or an example of use, and one that defines only
    tests count only where no other block does.
    """
    text = response.rpartition(THINK_CLOSE)[2].removeprefix("\ufeff")
    if _QUOTED.search(text):
        text = re.sub(r"^> ?", "", text, flags=re.MULTILINE)
    if "```" not in text and "~~~" not in text:
        text = _TAGS.sub("", text).removeprefix("\ufeff")
        return text if _BARE.match(text) else None
    blocks = _blocks(text, docstrings=True)
    if blocks is None:
        blocks = _blocks(text, docstrings=False) or []
    programs = [(language, code.removeprefix("\ufeff")) for language, code in blocks if _PYTHON.fullmatch(language)]
    programs = [each for each in programs if each[1].strip()] or programs
    defining = [code for _, code in programs if _DEFINES.search(code)]
    best = [code for code in defining if not _only_tests(code)] or defining
    best = best or [code for language, code in programs if language] or [code for _, code in programs]
    return _with_helpers(best) if best else None


def _with_helpers(blocks: list[str]) -> str:
    """The last block, behind those before it that define a function or a class that it uses and does not define."""
    code = blocks[-1]
    for block in reversed(blocks[-_HELPERS:-1]):
        helps, has = set(_DEFINED.findall(block)), set(_DEFINED.findall(code))
        if helps & has:  # another try at the same program
            continue
        if any(re.search(rf"(?<![\w.]){name}\s*[(.,)\]:]", code) for name in helps - _BUILTINS):
            code = f"{block}\n{code}"
    return code


def _blocks(text: str, *, docstrings: bool) -> list[tuple[str, str]] | None:
    """Language and content of each closed block; None = the last one is open in the middle of a docstring.

    By lines: a search for the pair would be quadratic in fences that never close.
    """
    blocks: list[tuple[str, str]] = []
    block: list[str] | None = None  # lines of the open block
    indent, mark, language, quote = "", "", "", ""
    for line in text.split("\n"):
        fence = _FENCE.fullmatch(line)
        if block is None:
            at = line.find("```")
            if (
                not fence and line.count("```") == 1 and _language(line[at + 3 :]) and _is_python(line[at + 3 :])
            ):  # behind words
                fence = _FENCE.fullmatch(line[at:])
            if fence and fence[2][0] not in fence[3].rstrip("\r").strip():
                block, (indent, mark), quote = [], (fence[1], fence[2]), ""
                language = _language(fence[3])
            continue
        code, closed = line.removeprefix(indent), False
        if not quote and fence and fence[2].startswith(mark):
            words = fence[3].rstrip("\r")
            if words.strip() and _is_python(words) and words.strip().isidentifier():  # one that was not closed
                block, language = [], _language(words)
                continue
            if not words[:1].isidentifier():
                code, closed = "", True
        elif not quote and line.rstrip().endswith(mark) and not line.lstrip().startswith(("#", mark)):
            code, closed = code.rstrip()[: -len(mark)], True
        if closed:
            blocks.append((language, "".join(block) + (code and f"{code}\n")))
            block = None
            continue
        block.append(code + "\n")
        quote = _open_quote(code, quote) if docstrings else ""
    return None if block is not None and quote else blocks


def _only_tests(code: str) -> bool:
    """Whether a block defines tests and nothing else, as behind a program that it imports or repeats."""
    names = _DEFINED.findall(code)
    return bool(names) and all(name.lower().startswith("test") for name in names)


def _is_python(info: str) -> bool:
    return _PYTHON.fullmatch(_language(info)) is not None


def _language(info: str) -> str:
    words = info.strip().strip("{}.").split()
    return words[0].lower() if words else ""


def _open_quote(line: str, quote: str) -> str:
    """The triple quotes that are open after a line; "" = none."""
    for part in re.findall(r"\"\"\"|\'\'\'", line):
        quote = part if not quote else "" if part == quote else quote
    return quote
