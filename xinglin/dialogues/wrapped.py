"""Records in an object that is all its file holds: `{"version": 1, "data": [record, …]}`, or `{"0": record, "1": record}`."""

import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

from xinglin.dialogues.dialogue import Unusable
from xinglin.dialogues.elements import BRACKETS, CLOSER, DEEPEST, INSIDE, Elements, is_object
from xinglin.dialogues.formats import TURN_LISTS, WHO, Columns, shape_of
from xinglin.dialogues.record import Read, Record, Unreadable

Path = tuple[str, ...]  # the keys that lead to a list of records, or to an object whose values are records

LOOKED_AT = 20  # records of a list that tell whether it holds records
ALIKE = 3  # objects of the same keys in a row are records, of whatever shape
NAMED = 5  # sets that an error names
TURNS = frozenset(TURN_LISTS) - {"data"}  # under which pairs of texts are the turns of one dialogue


def set_within(head: bytes, columns: Columns) -> Path | None:
    """Return where the records are in the one object of a file that begins with `head`; None if it holds none, or more follows.

    Raises Unreadable if there are several sets of them.
    """
    if is_object(next((line for line in head.splitlines() if line.strip()), b"")) and len(head.split(b"\n", 2)) > 2:
        return None  # a record on each line: the usual case, at less cost
    root, end = beginning(head)
    if root is None or (end is not None and head[end:].strip()):
        return None
    found = sets(root, columns)
    if not found or (end is None and a_line_has_one_of(set(root), head)):
        return None
    if len(found) > 1:
        raise several(found)
    return found[0]


def several(found: list[Path]) -> Unreadable:
    names = [".".join(path) for path in found[:NAMED]]
    return Unreadable(
        f"several sets of records in one file: {', '.join(names)}{', …' * (len(found) > NAMED)}; "
        f"expected one, save each as a file of its own (jq '.{names[0]}' FILE > {found[0][-1]}.json)"
    )


def beginning(head: bytes) -> tuple[dict | None, int | None]:
    """Return what the object at the beginning of `head` holds, as far as that is sound, and where it ends if it does."""
    start, end = len(head) - len(head.lstrip()), None
    if head[start : start + 1] != b"{":
        return None, None
    place, waiting, cuts = start, bytearray(), [(start, b"")]
    while place < len(head):
        place = INSIDE.match(head, place).end()  # type: ignore[union-attr]
        if (bracket := head[place : place + 1]) not in BRACKETS or not bracket:
            break
        place += 1
        if bracket[0] in CLOSER:
            waiting.append(CLOSER[bracket[0]])
        elif waiting.pop() != bracket[0]:
            break
        else:
            cuts.append((place, bytes(reversed(waiting))))
        if not waiting or len(waiting) > DEEPEST:
            end = None if waiting else place
            break
    return first_sound(head[start:], [(cut - start, closing) for cut, closing in cuts]), end


def first_sound(text: bytes, cuts: list[tuple[int, bytes]]) -> dict | None:
    """Return what `text` holds up to the last of `cuts`; where that is no JSON, up to one halfway, and so on."""
    place = len(cuts) - 1
    while place > 0:
        cut, closing = cuts[place]
        try:
            found = json.loads((text[:cut] + closing).decode(errors="replace"), strict=False)
            return found if isinstance(found, dict) else None
        except ValueError:
            place //= 2
    return None


def a_line_has_one_of(keys: set[str], head: bytes) -> bool:
    """Say whether a line is an object with one of `keys`: then there is one a line, and the first is damaged."""
    return any(keys & json.loads(line).keys() for line in head.splitlines() if line.startswith(b"{") and is_object(line))


def sets(value: dict, columns: Columns, path: Path = (), known_only: bool = False) -> list[Path]:
    """Return where in an object records are: none if it is one itself; of lists of known and other shapes the known ones."""
    if columns and is_record(value, columns):
        return []
    found: dict[Path, bool] = {}
    for key, held in value.items():
        here = (*path, key)
        if isinstance(held, list):
            if (is_known := holds_records(key, held, columns)) is not None:
                found[here] = is_known
        elif isinstance(held, dict):
            found |= dict.fromkeys(sets(held, columns, here, known_only), True)
    inside = {one[len(path)] for one in found}
    if is_record({key: held for key, held in value.items() if key not in inside}, columns):
        return []
    if not found and value and all(isinstance(held, dict) for held in value.values()):
        inner = list(islice(value.values(), LOOKED_AT))
        return [path] if any(is_record(held, columns) for held in inner) or (are_alike(inner) and not known_only) else []
    return [one for one in found if found[one] or not (known_only or any(found.values()))]


def holds_records(key: str, held: list, columns: Columns) -> bool | None:
    """Say whether a list holds records of a known shape, or of another one; None if it holds none, but turns say."""
    first, is_turns = held[:LOOKED_AT], key in TURNS
    if any(is_record(one, columns) and not (is_turns and not columns and is_pair(one)) for one in first):
        return True
    if first and all(isinstance(one, list) and one for one in first):
        return True if all(isinstance(one[0], dict) for one in first) or not is_turns else None
    is_told = any(isinstance(one, dict) and not one.keys().isdisjoint(WHO) for one in first)
    return None if is_turns or is_told or not are_alike(first) else False


def is_record(value: Any, columns: Columns) -> bool:
    """Say whether an object is a record of a known shape, or one that has what `columns` name."""
    if not isinstance(value, dict):
        return False
    if columns:
        named = [str(columns[part]) for part in ("turns", "answer") if part in columns]
        return any(name in value or name.split(".")[0] in value for name in named)
    try:
        return bool(shape_of(value, None))
    except Unusable:
        return False


def is_pair(record: dict) -> bool:
    return shape_of(record, None) in ("csv", "alpaca")


def are_alike(values: list) -> bool:
    first = values[:ALIKE]
    return len(first) == ALIKE and all(isinstance(one, dict) and one.keys() == first[0].keys() for one in first)


class Wrapped(Elements):
    """Reads the records at `path` in an object as elements; no more of it is held than of an array."""

    def __init__(self, read: Read, path: Path, columns: Columns) -> None:
        super().__init__(read, in_array=True)
        self.path, self.columns = path, columns

    def __iter__(self) -> Iterator[Record]:
        self.next_character()
        yield from self.within(self.path)
        if self.next_character():
            raise Unreadable(f"line {self.line}: something follows the object that holds the records, expected nothing")

    def within(self, path: Path) -> Iterator[Record]:
        """Yield the records of the object that begins here: its values, or what `path` leads to."""
        for name in self.names():
            if not path:
                yield self.element()
            elif name != path[0]:
                self.pass_over(name)
            elif self.next_character() == b"{":
                yield from self.within(path[1:])
            elif self.next_character() == b"[":
                yield from self.elements(one_array=True)
            else:
                raise self.damage()

    def names(self) -> Iterator[str]:
        """Pass over an object, stopping before each value; yields its name."""
        self.pass_to(self.at + 1)
        while (character := self.next_character()) != b"}":
            if character == b",":
                self.pass_to(self.at + 1)
                continue
            name = self.value()
            if self.next_character() != b":" or not isinstance(name, str):
                raise self.damage()
            self.pass_to(self.at + 1)
            self.next_character()
            yield name
        self.pass_to(self.at + 1)

    def value(self) -> Any:
        """Pass over a value and return it; what is no JSON, but its brackets closed, is returned as None."""
        if not self.next_character():
            raise EOFError("the object that holds the records is not closed")
        end = self.end_of_element() if self.held[self.at] in CLOSER else self.end_of_scalar()
        if end is None:
            raise self.damage()
        text = self.held[self.at : end]
        self.pass_to(end)
        try:
            return json.loads(text.decode(errors="replace"), strict=False)
        except ValueError:
            return None

    def damage(self) -> Unreadable:
        return Unreadable(f"line {self.line}: the object that holds the records is damaged here: save them as an array")

    def pass_over(self, name: str) -> None:
        """Pass over what stands beside the records; raises Unreadable if that is a second set of them."""
        if self.next_character() == b"[":
            number = self.number
            inner = self.elements(one_array=True)
            first = {name: [loaded(record) for record in islice(inner, LOOKED_AT)]}
            for _ in inner:
                pass
            self.number = number
        else:
            first = {name: self.value()}
        if more := sets(first, self.columns, self.path[:-1], known_only=True):
            raise several([self.path, *more])


def loaded(record: Record) -> Any:
    try:
        return json.loads(record.value) if isinstance(record.value, bytes) else None
    except ValueError:
        return None
