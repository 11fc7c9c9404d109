"""What the licence of a data set allows: known names and common words for it, in four kinds."""

import re
from typing import Literal

Terms = Literal["permissive", "non-commercial", "none stated", "unknown"]  # permissive: commercial use is allowed

PERMISSIVE = re.compile(
    r"mit|isc|unlicense|apache-?2(\.0)?|bsd(-[23](-clause)?)?|0bsd|cc0(-1\.0)?|cc-by(-sa)?(-[1-4]\.\d)?(-[a-z]{2})?"
    r"|odc-by(-1\.0)?|odbl(-1\.0)?|pddl(-1\.0)?|cdla-permissive-[12]\.0|mulanpsl-?2(\.0)?|public-domain|公有领域|own(-data)?|自有(数据)?"
)
NON_COMMERCIAL = re.compile(
    r"(^|-)nc(-|$)|non-?commercial|non-?profit|academic|research-(use-)?only|(only|for)-research|educational"
    r"|非商业|非商用|非营利|学术|仅[限供]?.{0,4}(研究|科研|教学)|(不得|不可|不能|禁止|严禁).{0,6}(商业|商用|盈利|营利)"
)
NONE_STATED = ("", "none", "none-stated", "no", "null", "无", "未注明", "未说明", "未声明")
WARNINGS = {
    "non-commercial": "it forbids commercial use; a model trained on it must not be sold or serve a business",
    "none stated": "no licence is stated, so nobody has allowed the use; ask its authors, then write it here",
    "unknown": "not a licence that is known here; read it before a model is released",
}


def terms(licence: str | None) -> Terms:
    """Return what a licence allows, given by its SPDX name or in common words."""
    name = re.sub(r"[\s_,]+", "-", (licence or "").strip().lower())
    plain = (
        re.sub(r"-?(licen[sc]e|许可证?|协议)(-agreement)?", "", name).removeprefix("the-").replace("version-", "").strip("-")
    )
    if plain in NONE_STATED:
        return "none stated"
    if NON_COMMERCIAL.search(plain):
        return "non-commercial"
    return "permissive" if PERMISSIVE.fullmatch(plain) else "unknown"


def warning(licence: str | None) -> str | None:
    """Return what somebody who releases a model must know of the licence; None where it is permissive."""
    return WARNINGS.get(terms(licence))
