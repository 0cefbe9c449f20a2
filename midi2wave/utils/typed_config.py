"""Config files: reading, overriding, checking and documenting them.

A config file is one JSON object of blocks, each an object of options. A block is a pydantic dataclass with the config
`BLOCK`. Unknown blocks and options, wrong types and impossible values are refused in one line that names file, block,
option and what was expected.
"""

import difflib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import ErrorDetails

from midi2wave.utils.cli import log
from midi2wave.utils.errors import InputError

# How a block checks its options: without conversions but from whole numbers to floats.
BLOCK = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
SCHEMA_MEMBER = "$schema"  # By this member a config file tells editors its JSON schema; nothing else reads it.
SCHEMA_FILE = "schema.json"

Raw = dict[str, dict[str, Any]]  # block -> option -> value, as JSON has them


def text_as_list(item: Any) -> BeforeValidator:
    """Let an option that is a list of `item` accept a single text, too."""
    return BeforeValidator(
        lambda value: [value] if isinstance(value, str) else value, json_schema_input_type=item | list[item]
    )


class _UntitledOptions(GenerateJsonSchema):
    """JSON schemas without titles of options, which would repeat their names."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


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
            content = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path} is not valid JSON: {error}") from error
        raw = _blocks_of(content, str(path))
        for override in overrides:
            self._override(raw, override)
        return raw, str(path)

    def build(self, raw: Any, source: str, *, overrides: Iterable[str] = (), quiet: bool = False) -> dict[str, Any]:
        """Check blocks and make their dataclasses.

        Args:
            raw: The blocks as JSON has them.
            source: Where they are from, for messages.
            overrides: The overrides that `read` has applied, for messages.
            quiet: Whether nothing is logged about deprecated names: of a stored config, which nobody edits.

        Returns:
            The blocks that `raw` has, by name.

        Raises:
            InputError: A block or option is unknown, missing or impossible.
        """
        raw = _blocks_of(raw, source)
        for name in raw:
            _require_valid(name, self.blocks, f"{source}: block")
        migrated, messages = self.migrate(raw, source)
        if not quiet:
            _log_once(messages)
        own = {name: [text for text in overrides if text.startswith(f"{name}.")] for name in migrated}
        return {name: self._build_block(name, values, source, own[name]) for name, values in migrated.items()}

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
            schema = _block_schema(block)
            lines += [f"## `{name}`", "", schema["description"], "", "| option | default | meaning |", "|---|---|---|"]
            for option, values in schema["properties"].items():
                default = f"`{json.dumps(values['default'])}`" if "default" in values else "required"
                lines.append(f"| `{option}` | {default} | {values['description']} |")
            lines.append("")
        return "\n".join(lines)

    def json_schema(self, title: str) -> dict[str, Any]:
        """The JSON schema of a config file; former names are in it, marked as deprecated."""
        blocks = {name: _block_schema(block) for name, block in self.blocks.items()}
        for (block, former), name in self.deprecated_options.items():
            options = blocks[block]["properties"]
            options[former] = options[name] | {"deprecated": True, "description": f"Former name of {name}."}
        for (block, name, former), value in self.deprecated_values.items():
            option = blocks[block]["properties"][name]
            if "anyOf" not in option:
                option["anyOf"] = [{member: option.pop(member) for member in ("type", "enum")}]
            option["anyOf"].append({"const": former, "deprecated": True, "description": f'Former name of "{value}".'})
        return {
            "$schema": GenerateJsonSchema.schema_dialect,
            "title": title,
            "type": "object",
            "properties": {SCHEMA_MEMBER: {"type": "string", "description": "path of this JSON schema"}, **blocks},
            "additionalProperties": False,
        }

    def _find(self, path: Path) -> Path:
        for candidate in (path, self.folder / path, self.folder / f"{path}.json"):
            if candidate.is_file():
                return candidate
        files = (file.relative_to(self.folder) for file in self.folder.rglob("*.json") if file.name != SCHEMA_FILE)
        suggestions = difflib.get_close_matches(path.name, sorted(map(str, files)), n=1, cutoff=0.5)
        hint = f"; did you mean {suggestions[0]}?" if suggestions else ""
        raise InputError(f"config {path} not found, neither as a path nor in {self.folder}{hint}")

    def _override(self, raw: Raw, text: str) -> None:
        target, equals, value = text.partition("=")
        block, dot, name = target.partition(".")
        if not (equals and dot and block and name):
            raise InputError(f"--set {text}: expected block.option=value, e.g. train_config.batch_size=4")
        _require_valid(block, self.blocks, "--set: block")
        if current := self.deprecated_options.get((block, name)):
            _log_once([f"--set: {block}.{name} is deprecated; write {block}.{current}"])
            name = current
        options = self.blocks[block].__pydantic_fields__
        _require_valid(name, options, f"--set: {block} option", self._former_names(block))
        parsed = value if options[name].annotation is str else _from_json(value)
        self._check_override(block, name, parsed)
        raw.setdefault(block, {})[name] = parsed

    def _check_override(self, block: str, name: str, value: Any) -> None:
        """Refuse a value here, since a message of `build` would name the config file instead of the override."""
        if isinstance(value, str) and (block, name, value) in self.deprecated_values:
            return
        values = {name: value}
        try:
            self.blocks[block](**values)
        except ValidationError as errors:
            # Other options may be missing here, and the file has those with which the value must agree.
            own = [error for error in errors.errors() if error["loc"][:1] == (name,)]
            if own:
                raise InputError(_describe(own[0], self.blocks[block], values, f"--set: {block}")) from errors

    def _build_block(self, name: str, values: Mapping[str, Any], source: str, overrides: list[str]) -> Any:
        """Make a block's dataclass from plain values, to which `overrides` of this block contributed."""
        block = self.blocks[name]
        for option in values:
            _require_valid(option, block.__pydantic_fields__, f"{source}: {name}: option", self._former_names(name))
        try:
            return block(**values)
        except ValidationError as errors:
            error = errors.errors()[0]
            message = _describe(error, block, values, name)
            # Options that contradict each other may be from both places.
            named = [text for text in overrides if re.search(rf"\b{re.split('[.=]', text)[1]}\b", message)]
            sources = f"{source} with --set {' '.join(named)}" if named else source
            raise InputError(f"{sources}: {message}") from errors

    def _former_names(self, block: str) -> dict[str, str]:
        """Former name of an option of a block -> name."""
        return {former: name for (of, former), name in self.deprecated_options.items() if of == block}


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


def _blocks_of(content: Any, source: str) -> Raw:
    """The blocks of a config file, without the name of its schema."""
    if isinstance(content, dict):
        content = {name: block for name, block in content.items() if name != SCHEMA_MEMBER}
        if all(isinstance(block, dict) for block in content.values()):
            return content
    raise InputError(f"{source}: expected an object of blocks, each an object of options")


def _require_valid(
    name: str, valid: Mapping[str, Any], subject: str, former_names: Mapping[str, str] | None = None
) -> None:
    """Refuse an unknown name with a suggestion, for which former names (former name -> name) are looked at, too."""
    if name not in valid:
        former_names = former_names or {}
        suggestion = _closest(name, [*valid, *former_names], cutoff=0.6)
        if suggestion in former_names:
            hint = f"did you mean {former_names[suggestion]!r} (formerly {suggestion!r})?"
        else:
            hint = f"did you mean {suggestion!r}?" if suggestion else f"expected one of {', '.join(valid)}"
        raise InputError(f"{subject} {name!r} is unknown; {hint}")


def _closest(name: object, valid: Iterable[str], cutoff: float) -> str:
    """The most similar of some names, or "" if none is similar enough."""
    return next(iter(difflib.get_close_matches(str(name), valid, n=1, cutoff=cutoff)), "")


def _descriptions(block: Any) -> dict[str, str]:
    # pydantic reads the text below an option only in the class that declares it, not in those that inherit it.
    declared = [field for base in block.__mro__ for field in getattr(base, "__pydantic_fields__", {}).items()]
    return {name: " ".join(field.description.split()) for name, field in declared if field.description}


def _block_schema(block: Any) -> dict[str, Any]:
    schema, descriptions = TypeAdapter(block).json_schema(schema_generator=_UntitledOptions), _descriptions(block)
    options = schema["properties"]
    # In the order of declaration, which pydantic loses where a block inherits options.
    schema["properties"] = {f.name: options[f.name] | {"description": descriptions[f.name]} for f in fields(block)}
    return schema


def _describe(error: ErrorDetails, block: Any, values: Mapping[str, Any], source: str) -> str:
    """One line of what is wrong with a value, or with several together."""
    if error["type"] == "value_error":  # of a validator of the whole block
        return f"{source}: {error['ctx']['error']}"
    name = str(error["loc"][0])
    if error["type"] == "missing":
        other = "" if values else "; is this the config of another command?"
        return f"{source}: option {name!r} is missing: {_descriptions(block)[name]}{other}"
    expected = error["msg"].removeprefix("Input should be ")
    suggestion = _closest(error["input"], re.findall(r"'(\w+)'", expected), cutoff=0.5)
    hint = f" (did you mean {suggestion!r}?)" if suggestion else ""
    return f"{source}.{name} = {json.dumps(error['input'])}: expected {expected}{hint}"
