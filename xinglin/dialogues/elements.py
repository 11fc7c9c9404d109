"""Elements of a JSON array, or objects one after the other, each as the bytes that stand in the source.

A regular expression knows strings, literals and brackets and nothing else of JSON: what an element holds is for its
parser to judge. Where even these do not fit, the element is damaged, and reading goes on with the next.
"""

import io
import re
from collections.abc import Iterator

import orjson

from xinglin.dialogues.record import BLOCK, LARGEST_BLOCK, LIMIT, SHOWN, Broken, Read, Record, broken, too_long

DEEPEST = 32  # brackets in brackets: an element that is not closed takes the next ones into itself
LOOK_AHEAD = 1 << 20  # bytes read on in an element that holds what looks like the next one
TRIES, NEAR = 256, 1 << 16  # closing braces and bytes among which the end of an element is looked for first
TAIL = 1 << 12  # bytes that may lie between two elements, with the first key of the second

STRING = rb'"(?:[^"\\\n]++|\\[^\n])*+"'
LITERAL = rb"(?:-?(?:[0-9][0-9.eE+-]*+|Infinity)|NaN|true|false|null)"
INSIDE = re.compile(rb"(?:[\s,:]++|" + STRING + rb"|" + LITERAL + rb")*+")
SCALAR = re.compile(STRING + rb"|" + LITERAL)
UNFINISHED = re.compile(rb'(?:"(?:[^"\\\n]++|\\[^\n])*+\\?|-?[a-zA-Z]{0,8})\Z')  # what the next block may complete
BETWEEN = re.compile(rb"\s*+,\s*+(?=\{)")
BLANK = re.compile(rb"(?:\s++|\xef\xbb\xbf)*+")
KEY = re.compile(rb"\{\s*+(" + STRING + rb")")
NEXT = re.compile(rb"[,\n}]\s*+(?=\{\s*+(" + STRING + rb"))")
CLOSED = re.compile(rb"(?:\}\s*|\n)(?=\][\s}]*\Z)")  # with the braces of what an array may be wrapped in
CLOSER = {ord("{"): ord("}"), ord("["): ord("]")}
BRACKETS = b"{}[]"


class Elements:
    """Reads elements from `read`; holds no more of the source than one of them and a block."""

    def __init__(self, read: Read, in_array: bool) -> None:
        self.read = read
        self.in_array = in_array
        self.held = b""
        self.at = 0  # where in `held` reading stands
        self.ended = False
        self.line = 1  # of `at`
        self.number = 0
        self.keys: set[bytes] = set()  # the first keys of the elements so far

    def __iter__(self) -> Iterator[Record]:
        return self.elements()

    def elements(self, one_array: bool = False) -> Iterator[Record]:
        """Yield all elements, or with `one_array` those of the array that begins here, passing its end."""
        opened, last = not self.in_array, b""  # last: the bracket or comma before, none after an element
        while character := self.next_character():
            if self.in_array and character == (b"]" if opened else b"[") and last != b",":
                opened, last = not opened, character
                self.pass_to(self.at + 1)
                if one_array and not opened:
                    return
            elif character == b"," and opened and not last:
                last = character
                self.pass_to(self.at + 1)
            elif (character == b"," and opened) or (character == b"]" and last == b","):
                yield self.taken(self.at + (character == b","), Broken("a comma that no element follows", ","))
                last = character if character == b"," else b""
            else:
                yield self.element()
                while between := BETWEEN.match(self.held, self.at):  # the usual case, at less cost
                    self.pass_to(between.end())
                    yield self.element()
                last = b""
        if self.in_array and opened:
            raise EOFError("the array is not closed")

    def next_character(self) -> bytes:
        """Pass over white space and return the character after it, none at the end of the source."""
        while True:
            self.pass_to(BLANK.match(self.held, self.at).end())  # type: ignore[union-attr]
            if self.at < len(self.held) or not self.more():
                return self.held[self.at : self.at + 1]

    def pass_to(self, end: int) -> None:
        self.line += self.held.count(b"\n", self.at, end)
        self.at = end

    def more(self) -> bool:
        """Read a block more and let go of what was passed; say whether there was one."""
        held = self.held[self.at :]
        block = b"" if self.ended else self.read(min(max(BLOCK, len(held)), LARGEST_BLOCK))
        self.held, self.at, self.ended = held + block, 0, not block
        return not self.ended

    def more_of_string(self) -> bool:
        """Read on until there is what may end a string; say whether there is, and what is held is not longer than LIMIT."""
        while (length := len(self.held) - self.at) <= LIMIT and self.more():
            if any(self.held.find(end, length) >= 0 for end in (b'"', b"\n", b"}", b"]")):
                return True
        return False

    def taken(self, end: int, value: bytes | Broken) -> Record:
        """Return the record that ends at `end`, passing it."""
        line = self.line
        self.pass_to(end)
        return self.numbered(line, value, self.line - line + 1)

    def numbered(self, line: int, value: bytes | Broken, lines: int) -> Record:
        self.number += 1
        return Record(line, value, lines, self.number if self.in_array else 0)

    def element(self) -> Record:
        """Return the element that begins here, or what is broken up to where the next one begins."""
        if key := KEY.match(self.held, self.at):
            self.keys.add(key[1])
        end = self.end_of_sound_object()
        if end is None:
            end = self.end_of_element() if self.held[self.at] in CLOSER else self.end_of_scalar()
        return self.damaged() if end is None else self.taken(end, self.held[self.at : end])

    def end_of_sound_object(self) -> int | None:
        """Return where the braces that begin here are closed, if that is an object: several times as fast as all the rest."""
        place, braces = self.at, 0
        for _ in range(TRIES):
            closing = self.held.find(b"}", place, self.at + NEAR)
            if closing < 0:
                return None
            braces += self.held.count(b"{", place, closing) - 1
            place = closing + 1
            if braces <= 0:
                return place if is_object(self.held[self.at : place]) else None
        return None

    def end_of_element(self) -> int | None:
        """Return where the object or list that begins here ends; None if it is damaged or longer than LIMIT."""
        waiting, passed, most = bytearray(), 0, LIMIT  # passed: counted from self.at, whatever is read meanwhile
        while passed <= most:
            place = INSIDE.match(self.held, self.at + passed).end()  # type: ignore[union-attr]
            passed = place - self.at
            if place == len(self.held) or (bracket := self.held[place]) not in BRACKETS:
                if not UNFINISHED.match(self.held, place) or not self.more_of_string():
                    return None
                continue
            passed += 1
            if bracket in CLOSER:
                if waiting and (key := KEY.match(self.held, place)) and key[1] in self.keys:
                    most = min(most, passed + LOOK_AHEAD)
                waiting.append(CLOSER[bracket])
                if len(waiting) > DEEPEST:
                    return None
            elif waiting.pop() != bracket:
                return None
            elif not waiting:
                return place + 1
        return None

    def end_of_scalar(self) -> int | None:
        while True:
            match = SCALAR.match(self.held, self.at)
            if match and (match.end() < len(self.held) or not self.more()):
                return match.end() - match.start() + self.at
            if not match and (not UNFINISHED.match(self.held, self.at) or not self.more_of_string()):
                return None

    def damaged(self) -> Record:
        """Return as one record all up to where the next element seems to begin.

        That is at an object before which all brackets are closed, those in texts counted too, or one that begins with
        a key that another element began with.
        """
        line, text, length, balance = self.line, b"", 0, (0, 0)
        end = None
        while end is None:
            counted = self.at
            for match in NEXT.finditer(self.held, self.at):
                balance = self.balance(balance, counted, match.end())
                counted = match.end()
                if balance == (0, 0) or match[1] in self.keys:
                    end = counted
                    break
            else:
                cut = max(counted, len(self.held) - TAIL)
                balance = self.balance(balance, counted, cut)
                text, length = text + self.held[self.at : min(cut, self.at + 4 * SHOWN)], length + cut - self.at
                self.pass_to(cut)
                if not self.more():
                    closed = CLOSED.search(self.held, self.at) if self.in_array else None
                    end = closed.end() if closed else len(self.held)
        text, length = text + self.held[self.at : min(end, self.at + 4 * SHOWN)], length + end - self.at
        between = self.held[max(self.at, end - TAIL) : end]
        between = between[len(between.rstrip(b", \t\r\n")) :]
        self.pass_to(end)
        value = too_long("an element", text) if length > LIMIT else broken("not JSON", text.rstrip(b", \t\r\n"))
        return self.numbered(line, value, self.line - line + 1 - between.count(b"\n"))

    def balance(self, before: tuple[int, int], start: int, end: int) -> tuple[int, int]:
        """Return how many braces and how many brackets are open at `end`."""
        braces, brackets = (
            self.held.count(opening, start, end) - self.held.count(closing, start, end)
            for opening, closing in ((b"{", b"}"), (b"[", b"]"))
        )
        return before[0] + braces, before[1] + brackets


def several_lines_each(head: bytes) -> bool:
    """Say whether a file that begins with `head` holds objects over several lines, or several on one, not one a line."""
    lines = [line for line in head.splitlines() if line.startswith(b"{")]
    if lines and is_object(lines[0]):
        return False
    elements = Elements(io.BytesIO(head).read, in_array=False)
    return sum(isinstance(record.value, bytes) and is_object(record.value) for record in elements) > sum(map(is_object, lines))


def begins_an_array(head: bytes) -> bool:
    """Say whether a file that begins with `head` is an array, rather than a list on each of its lines."""
    first, *others = [line for line in head.split(b"\n") if line.strip()][:2] or [b""]
    several = bool(others) and others[0].lstrip().startswith(b"[") and is_object(first, list)
    return first.lstrip().startswith(b"[") and not several


def is_object(text: bytes, kind: type = dict) -> bool:
    try:
        return isinstance(orjson.loads(text), kind)
    except orjson.JSONDecodeError:
        return False
