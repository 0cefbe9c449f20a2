"""Typed config blocks from JSON: reading, checking, overriding and documenting them.

A config file is one JSON object of blocks, each an object of options. A block is a dataclass whose fields are made by
`option`. Unknown blocks and options, wrong types and impossible values are refused in one line that names file, block,
option and what was expected.
"""

import difflib
import json
import math
import os
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from midi2wave.utils.cli import log
from midi2wave.utils.errors import InputError

# Beyond this size not every whole number is a float.
MAX_EXACT_FLOAT = 2**53

Raw = dict[str, dict[str, Any]]  # block -> option -> value, as JSON has them


def option(
    doc: str,
    default: Any = MISSING,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    choices: tuple[Any, ...] | None = None,
) -> Any:
    """A field of a block: an option with its documentation.

    Args:
        doc: What the option means, with its unit.
        default: Value where a config does not have the option; without it every config must.
        ge: Inclusive lower limit.
        gt: Exclusive lower limit.
        le: Inclusive upper limit.
        choices: Allowed values; of a list, allowed items.
    """
    metadata = {"doc": doc, "ge": ge, "gt": gt, "le": le, "choices": choices}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Schema:
    """The blocks that a config may have, and the former names that are still accepted.

    Attributes:
        blocks: Name of a block -> its dataclass.
        folder: Where configs are looked for that are named without a path.
        deprecated_options: (block, former name) -> name.
        deprecated_values: (block, option, former value) -> value.
    """

    blocks: Mapping[str, Any]
    folder: Path
    deprecated_options: Mapping[tuple[str, str], str]
    deprecated_values: Mapping[tuple[str, str, str], str]

    def read(self, path: str | Path, overrides: Iterable[str] = ()) -> tuple[Raw, str]:
        """Read a config file and apply overrides.

        Args:
            path: The file, or its name in the schema's folder.
            overrides: Texts `block.option=value`; a later one counts more.

        Returns:
            The blocks, unchecked but for their shape, and the file's path for messages.

        Raises:
            InputError: There is no such file, it is no JSON object of objects, or an override is wrong.
        """
        path = self._find(Path(path))
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path} is not valid JSON: {error}") from error
        require_blocks(raw, str(path))
        for override in overrides:
            self._override(raw, override)
        return raw, str(path)

    def build(self, raw: Any, source: str, *, quiet: bool = False) -> dict[str, Any]:
        """Check blocks and make their dataclasses.

        Args:
            raw: The blocks as JSON has them.
            source: Where they are from, for messages.
            quiet: Whether nothing is logged about deprecated names: of a stored config, which nobody edits.

        Returns:
            The blocks that `raw` has, by name.

        Raises:
            InputError: A block or option is unknown, missing or impossible.
        """
        require_blocks(raw, source)
        _require_valid(raw, list(self.blocks), f"{source}: block")
        migrated, messages = self.migrate(raw, source)
        if not quiet:
            _log_once(messages)
        return {name: build_block(self.blocks[name], values, f"{source}: {name}") for name, values in migrated.items()}

    def migrate(self, raw: Raw, source: str) -> tuple[Raw, list[str]]:
        """Blocks with today's names of options and values, and a message for each former one."""
        result = {name: dict(values) for name, values in raw.items()}
        messages = []
        for (block, former), name in self.deprecated_options.items():
            if former in result.get(block, {}):
                value = result[block].pop(former)
                result[block].setdefault(name, value)
                messages.append(f"{source}: {block}.{former} is deprecated; write {block}.{name}")
        for (block, name, former), value in self.deprecated_values.items():
            if result.get(block, {}).get(name) == former:
                result[block][name] = value
                messages.append(f'{source}: {block}.{name} = "{former}" is deprecated; write "{value}"')
        return result, messages

    def markdown(self, title: str, preamble: str) -> str:
        """All blocks and options as a Markdown page."""
        lines = [f"# {title}", "", preamble, ""]
        for name, block in self.blocks.items():
            lines += [f"## `{name}`", "", block.__doc__, "", "| option | default | meaning |", "|---|---|---|"]
            lines += [f"| `{f.name}` | {_default_text(f)} | {f.metadata['doc']} |" for f in fields(block)]
            lines.append("")
        return "\n".join(lines)

    def _find(self, path: Path) -> Path:
        for candidate in (path, self.folder / path, self.folder / f"{path}.json"):
            if candidate.is_file():
                return candidate
        names = sorted(str(file.relative_to(self.folder)) for file in self.folder.rglob("*.json"))
        suggestions = difflib.get_close_matches(path.name, names, n=1, cutoff=0.5)
        hint = f"; did you mean {suggestions[0]}?" if suggestions else ""
        raise InputError(f"config {path} not found, neither as a path nor in {self.folder}{hint}")

    def _override(self, raw: Raw, text: str) -> None:
        target, equals, value = text.partition("=")
        block, dot, name = target.partition(".")
        if not (equals and dot and block and name):
            raise InputError(f"--set {text}: expected block.option=value, e.g. train_config.batch_size=4")
        _require_valid([block], list(self.blocks), "--set: block")
        if current := self.deprecated_options.get((block, name)):
            _log_once([f"--set: {block}.{name} is deprecated; write {block}.{current}"])
            name = current
        by_name = {f.name: f for f in fields(self.blocks[block])}
        _require_valid([name], list(by_name), f"--set: {block} option")
        raw.setdefault(block, {})[name] = value if by_name[name].type is str else _from_json(value)


def _log_once(messages: list[str]) -> None:
    # torchrun starts several processes on one config; only the first one logs.
    if os.environ.get("RANK", "0") == "0":
        for message in messages:
            log(message)


def _from_json(text: str) -> Any:
    """The value that a text stands for; the text itself, for the type check to refuse, if it is no JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def require_blocks(raw: Any, source: str) -> None:
    """Raise InputError unless `raw` is a dictionary of dictionaries."""
    if not isinstance(raw, dict) or not all(isinstance(block, dict) for block in raw.values()):
        raise InputError(f"{source}: expected an object of blocks, each an object of options")


def _require_valid(names: Iterable[str], valid: list[str], subject: str) -> None:
    for name in names:
        if name not in valid:
            suggestions = difflib.get_close_matches(name, valid, n=1, cutoff=0.4)
            hint = f"did you mean {suggestions[0]!r}?" if suggestions else f"expected one of {', '.join(valid)}"
            raise InputError(f"{subject} {name!r} is unknown; {hint}")


def build_block(block: Any, values: Mapping[str, Any], source: str) -> Any:
    """Make a block's dataclass from plain values.

    Args:
        block: The dataclass; its method `check`, if it has one, raises ValueError for values that contradict each
            other.
        values: Option -> value.
        source: File and block, for messages.

    Raises:
        InputError: An option is unknown, missing or impossible.
    """
    _require_valid(values, [f.name for f in fields(block)], f"{source}: option")
    checked = {}
    for f in fields(block):
        if f.name in values:
            checked[f.name] = checked_value(f, values[f.name], f"{source}.{f.name}")
        elif _is_required(f):
            other = "" if values else "; is this the config of another command?"
            raise InputError(f"{source}: option {f.name!r} is missing: {f.metadata['doc']}{other}")
    result = block(**checked)
    if hasattr(result, "check"):
        try:
            result.check()
        except ValueError as error:
            raise InputError(f"{source}: {error}") from error
    return result


def _is_required(f: Field[Any]) -> bool:
    return f.default is MISSING and f.default_factory is MISSING


def _default_text(f: Field[Any]) -> str:
    if _is_required(f):
        return "required"
    return f"`{json.dumps(f.default if f.default_factory is MISSING else f.default_factory())}`"


def checked_value(f: Field[Any], value: Any, source: str) -> Any:
    """Check one value against its option's type, choices and limits.

    Whole numbers pass as floats, and a single text as a list of texts.

    Args:
        f: The option.
        value: Its value as JSON has it.
        source: File, block and option, for messages.

    Raises:
        InputError: The value is impossible.
    """
    is_list = isinstance(f.type, types.GenericAlias)
    if f.type is float and type(value) is int and abs(value) < MAX_EXACT_FLOAT:
        value = float(value)
    if is_list and isinstance(value, str):
        value = [value]
    if not _has_type(f.type, value):
        raise InputError(f"{source} = {json.dumps(value)}: expected {_type_name(f.type)}")
    _require_choice(f.metadata["choices"], value if is_list else [value], source)
    limits = {
        "at least": (f.metadata["ge"], lambda limit: value >= limit),
        "more than": (f.metadata["gt"], lambda limit: value > limit),
        "at most": (f.metadata["le"], lambda limit: value <= limit),
    }
    for words, (limit, holds) in limits.items():
        if limit is not None and not holds(limit):
            raise InputError(f"{source} = {json.dumps(value)}: expected {words} {limit}")
    return value


def _has_type(kind: Any, value: Any) -> bool:
    if isinstance(kind, types.GenericAlias):
        return isinstance(value, list) and all(type(item) is typing.get_args(kind)[0] for item in value)
    return type(value) is kind and (kind is not float or math.isfinite(value))


def _type_name(kind: Any) -> str:
    if isinstance(kind, types.GenericAlias):
        return f"list of {typing.get_args(kind)[0].__name__}"
    return "finite float" if kind is float else kind.__name__


def _require_choice(choices: tuple[Any, ...] | None, items: list[Any], source: str) -> None:
    for item in items:
        if choices is not None and item not in choices:
            suggestions = difflib.get_close_matches(str(item), [str(choice) for choice in choices], n=1, cutoff=0.5)
            hint = f" (did you mean {suggestions[0]!r}?)" if suggestions else ""
            expected = ", ".join(map(str, choices))
            raise InputError(f"{source} = {json.dumps(item)}: expected one of {expected}{hint}")
