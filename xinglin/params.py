"""The reader of params.yaml: a command declares the sections that it reads, each a class beside the code that uses it.

Usage: class Params(ParamsFile):
           split: Split
       split = Params.read().split
"""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from xinglin.cli import CommandError

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=1 << 32)]
Port = Annotated[int, Field(ge=0, le=65535)]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Format = Literal["fp8", "gptq", "gguf"]
Template = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]  # the stage base knows LLaMA-Factory's


class Section(BaseModel):
    """A block of params.yaml; unknown keys and mistyped values are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Part(Section):
    """A section of which some keys are read; the others are checked by what reads them."""

    model_config = ConfigDict(extra="ignore")


class ParamsFile(Section):
    """The sections of params.yaml that a command reads."""

    model_config = ConfigDict(extra="ignore")
    _file: Path = PrivateAttr()
    _values: dict = PrivateAttr()

    @classmethod
    def read(cls, path: Path = Path("params.yaml"), profile: Path | None = None) -> Self:
        """Return the checked sections, with `profile` over them; any error ends the program with one line and exit status 2."""
        values = load(path)
        if profile:
            overlay(load(profile), values, str(profile))
        try:
            found = cls.model_validate(values)
        except ValidationError as error:
            raise CommandError(f"{path}: {explain(error, cls, values)}", 2)
        found._file, found._values = path.resolve(), load(path)
        return found

    def changed(self) -> str | None:
        """Return the first section that the file holds otherwise by now; a file in the middle of an edit ends nothing."""
        if not self._file.is_file():
            return None
        try:
            now = YAML(typ="safe", pure=True).load(self._file) or {}
        except (OSError, YAMLError):
            now = {}
        return next((section for section in type(self).model_fields if now.get(section) != self._values.get(section)), None)

    def ensure_unchanged(self) -> None:
        """Stop before an output is put in place that was made with other parameters than the file holds by now.

        DVC reads them after the stage has run, and would note the new ones beside the old output.
        """
        if section := self.changed():
            raise CommandError(
                f"{self._file.name}: section {section} changed while this ran: its output was not put in place, run 'dvc "
                "repro' again; set back, what was finished is taken up"
            )


def load(path: Path) -> Any:
    try:
        return YAML(typ="safe", pure=True).load(path)
    except FileNotFoundError:
        raise CommandError(f"{path}: no such file: run this from the project's root", 2)
    except YAMLError as error:
        raise CommandError(f"{path}: not YAML: {' '.join(str(error).split())}", 2)


def overlay(over: Any, values: Any, source: str, place: str = "") -> None:
    """Set each value of `over` in `values`, in place; a key that is not there is an error of `source`."""
    if not isinstance(over, dict):
        raise CommandError(f"{source}: {over!r}: expected sections of params.yaml", 2)
    for key, value in over.items():
        if key not in values:
            raise CommandError(f"{source}: {place}{key}: params.yaml has no such parameter", 2)
        if isinstance(value, dict) and value and isinstance(values[key], dict):
            overlay(value, values[key], source, f"{place}{key}.")
        else:
            values[key] = value


def explain(error: ValidationError, model: type[BaseModel], values: dict) -> str:
    """Return one line on the first thing wrong: where, the value, and what was expected."""
    first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")  # a typo is both unknown and missing
    place = [str(part) for part in first["loc"]]
    where = ".".join(place)
    if first["type"] == "extra_forbidden":
        known = known_keys(model, place[:-1])
        near = difflib.get_close_matches(place[-1], known, 1) or elsewhere(place[-1], values)
        return f"{where}: unknown parameter" + (
            f", did you mean '{near[0]}'?" if near else f", expected one of {', '.join(known)}"
        )
    if first["type"] == "missing":
        return f"{where}: missing"
    if first["type"] == "value_error":
        return f"{where}: {first['ctx']['error']}"
    if place[-1] == "bool":  # of what may be "auto" too
        return f"{'.'.join(place[:-1])}: {first['input']!r}: expected true, false or auto"
    return f"{where}: {first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}"


def elsewhere(key: str, values: dict) -> list[str]:
    """Return where other sections have a parameter of this name."""
    return [f"{name}.{key}" for name, section in values.items() if isinstance(section, dict) and key in section]


def known_keys(model: Any, place: list[str]) -> list[str]:
    """Return the keys that the section at `place` of `model` may have."""
    for part in place:
        model = get_args(model)[0] if get_origin(model) is list else model.model_fields[part].annotation
    return list(model.model_fields)
