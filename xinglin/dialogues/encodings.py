"""The encoding of a source, told from its beginning: UTF-8, UTF-16, GB18030 (which holds GBK) or Big5."""

import codecs
import io
import re
import string
from pathlib import Path
from typing import BinaryIO

from xinglin.cli import CommandError
from xinglin.dialogues.record import Read

HEAD = 1 << 20  # bytes that the encoding is told from
MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
    b"\x84\x31\x95\x33": "gb18030",
}
CHINESE = ("gb18030", "big5hkscs")
TOLD_APART = 2  # how many times as many frequent characters the right encoding must show
# Most Big5 text is valid GB18030 and the other way round, so validity does not tell them apart. These do: of medical
# dialogues they are every second character, of text read in a wrong encoding every fiftieth.
FREQUENT = frozenset(
    "，。：；？！、（）“”「」的一是不了在人有我他这這个個们們中来來上大为為和地到以说說时時要就出会會可也你您好得下能着著对對"
    "没沒后後去过過吃多天年月日小心无無问問答医醫生患者病疼痛头頭发發热熱建议議检檢查药藥治疗療感觉覺情况況需症状狀"
    "院血压壓高低胃肝肺肾腎炎咳嗽孕妇婦孩子宝寶女男手术術食水服用量用期正常性体體身怎么麼样樣什请請注意观觀察科"
    "及时是否现現因还還如果很些已经經开開始两兩次前里裡内內外感染伤傷口部位"
)


def encoding_of(head: bytes, file: Path) -> tuple[str, int]:
    """Return the encoding of a file that begins with `head`, and the length of its byte order mark."""
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        raise CommandError(f"{file}: the file is in UTF-32, expected UTF-8, UTF-16, GBK, GB18030 or Big5")
    for mark, encoding in MARKS.items():
        if head.startswith(mark):
            return encoding, len(mark)
    if b"\0" in head:
        scores = {encoding: frequent(head, encoding) for encoding in ("utf-16-le", "utf-16-be")}
        return max(scores, key=lambda encoding: scores[encoding]) if max(scores.values()) > 0.2 else "utf-8", 0
    lines = [line for line in head.splitlines(keepends=True) if not line.isascii()]
    whole = lines[:-1] if len(head) == HEAD and len(lines) > 1 else lines
    valid = {name: sum(decodes(line, name) for line in whole) for name in ("utf-8", *CHINESE)}
    if max(valid[name] for name in CHINESE) <= 2 * valid["utf-8"]:
        return "utf-8", 0
    return chinese_encoding(b"".join(whole), file), 0


def chinese_encoding(text: bytes, file: Path) -> str:
    """Return the one of CHINESE in which `text` shows far more of the frequent characters; stop if neither does."""
    scores = {name: frequent(text, name) for name in CHINESE}
    low, high = sorted(CHINESE, key=lambda name: scores[name])
    if scores[high] <= TOLD_APART * scores[low]:
        raise CommandError(
            f"{file}: the encoding cannot be told: GB18030 (GBK) or Big5? Save the file as UTF-8 (iconv -f GB18030 -t UTF-8)"
        )
    return high


def frequent(text: bytes, encoding: str) -> float:
    """Return which share of the characters are frequent ones: in UTF-16 printable ASCII is, elsewhere ASCII is left out."""
    characters = codecs.getincrementaldecoder(encoding)("replace").decode(text)
    if encoding in CHINESE:
        characters = re.sub(r"[\x00-\x7f]+", "", characters)
    expected = FREQUENT if encoding in CHINESE else FREQUENT.union(string.printable)
    return sum(map(expected.__contains__, characters)) / max(1, len(characters))


def decodes(line: bytes, encoding: str) -> bool:
    """Say whether a line, whose last character may be cut off, is valid in `encoding`."""
    try:
        codecs.getincrementaldecoder(encoding)().decode(line)
    except UnicodeDecodeError:
        return False
    return True


def utf8(source: BinaryIO, encoding: str) -> Read:
    """Return what reads `source` in UTF-8; what is not valid in another encoding becomes U+FFFD."""
    if encoding == "utf-8":
        return source.read
    text = io.TextIOWrapper(source, encoding, errors="replace", newline="")
    return lambda size: text.read(size).encode()
