"""A configuration: everything that decides the numbers of a run, and nothing else.

A `Config` is a frozen tree of `Part`s. Each part (a data set, a policy of views, an encoder, a method, an
optimiser) is a frozen dataclass declared in the module that builds it and registered for one slot by
`class ResNet(Part, slot="encoder")`; this module knows none of them by name. A slot is a field of that name whose type
is `Part`, in a `Config` or in another part: a method with a field `decoder: Part` holds a part of the slot "decoder".
"""

import dataclasses
import difflib
import hashlib
import json
import math
import numbers
import types
import typing
from dataclasses import dataclass

RECIPE = 1
"""Raise it when training computes something else, beyond rounding: results of another recipe are refused."""

_KINDS: dict[str, dict[str, type]] = {}
"""The kinds of parts by slot and name."""


def require(condition: bool, sentence: str) -> None:
    """Raise `ValueError(sentence)` unless `condition` holds."""
    if not condition:
        raise ValueError(sentence)


def require_number(
    name: str,
    value,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    below: float = math.inf,
    whole: bool = False,
) -> None:
    """Raise `ValueError` unless `value` is a finite number in the range, and `whole` if so asked.

    Numbers of Python and NumPy pass; booleans and tensors do not (to read a tensor is to wait for the GPU).
    """
    kind = numbers.Integral if whole else numbers.Real
    if (
        not isinstance(value, kind)
        or isinstance(value, bool)
        or not (-math.inf < value < math.inf and least <= value <= most and above < value < below)
    ):
        found = repr(value) if isinstance(value, (numbers.Number, str, type(None))) else f"a {type(value).__name__}"
        ends = {"of at least": least, "above": above, "of at most": most, "below": below}
        limits = " and".join(f" {word} {end}" for word, end in ends.items() if abs(end) < math.inf)
        raise ValueError(f"{name} is {found}; it must be a {'whole' if whole else 'finite'} number{limits}.")


def require_known(what: str, value: str, known) -> None:
    """Raise `ValueError` unless `value` is one of many `known` names; the sentence names those spelt alike, or all."""
    near = difflib.get_close_matches(str(value), known)
    names = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known)}."
    require(value in known, f"The {what} {value!r} is unknown; {names}")


def require_choice(name: str, value, allowed) -> None:
    """Raise `ValueError` unless `value` is one of the `allowed` names or truth values."""
    if not (isinstance(value, (str, bool)) and value in allowed):
        raise ValueError(f"{name} is {value!r}; allowed are {', '.join(map(repr, allowed))}.")


class Part:
    """Base of the frozen dataclasses that fill the slots of a `Config`.

    Field types are checked on construction (an `int` given for a `float` becomes one, a list a tuple), then
    `validate` is called, where a subclass states its ranges with `require`. In JSON a part is named by its `kind`, by
    default the name of its class.
    """

    slot: typing.ClassVar[str | None] = None
    kind: typing.ClassVar[str]

    def __init_subclass__(cls, slot: str | None = None, kind: str | None = None, **kwargs):
        super().__init_subclass__(**kwargs)
        cls.kind = kind or cls.__name__
        if slot is not None:
            cls.slot = slot
            _KINDS.setdefault(slot, {})[cls.kind] = cls

    def __post_init__(self):
        for name, hint in _fields(type(self)).items():
            value = _coerce(getattr(self, name), hint, f"{type(self).__name__}.{name}")
            object.__setattr__(self, name, value)
        self.validate()

    def validate(self) -> None:
        """Raise `ValueError` with a full sentence if a value is out of range."""

    def limit(self, *names: str, **ends: float) -> None:
        """Raise `ValueError` unless the named fields are numbers between `ends`; see `require_number`."""
        for name in names:
            require_number(f"{type(self).__name__}.{name}", getattr(self, name), **ends)

    def replace(self, **changes):
        """The same configuration with some fields changed."""
        return dataclasses.replace(self, **changes)


def _fields(cls) -> dict[str, type]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _coerce(value, hint, where: str):
    if hint is Part:
        kinds = _KINDS.get(where.split(".")[-1].split("[")[0], {})
        require(
            isinstance(value, Part) and value.slot is not None and type(value) is kinds.get(value.kind),
            f"{where} is {value!r}; allowed kinds are {', '.join(sorted(kinds))}.",
        )
        return value
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _coerce(value, next(a for a in arguments if a is not type(None)), where)
    if origin is typing.Literal:
        require_choice(where, value, arguments)
        return value
    if origin is tuple:
        require(isinstance(value, (tuple, list)), f"{where} is {value!r}; it must be a list of values.")
        if arguments[-1] is not Ellipsis:
            require(len(value) == len(arguments), f"{where} is {value!r}; it must hold {len(arguments)} values.")
        element = (lambda i: arguments[0]) if arguments[-1] is Ellipsis else (lambda i: arguments[i])
        return tuple(_coerce(v, element(i), f"{where}[{i}]") for i, v in enumerate(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    require(not isinstance(value, float) or math.isfinite(value), f"{where} is {value}; it must be finite.")
    matches = isinstance(value, hint) and not (hint is int and isinstance(value, bool))
    require(matches, f"{where} is {value!r} of type {type(value).__name__}; it must be of type {hint.__name__}.")
    return value


@dataclass(frozen=True)
class Config(Part):
    """One training run.

    `epochs` counts passes over the training images (0 keeps the initial weights), `batch_size` images (not
    views), `seed` decides initialisation, order and views. The weights are kept at up to `snapshots + 1` epochs,
    evenly spaced from initialisation to the end, and at the epochs of `early`, where much changes in little time.
    """

    data: Part
    views: Part
    encoder: Part
    method: Part
    optim: Part
    epochs: int
    batch_size: int
    seed: int = 0
    snapshots: int = 12
    early: tuple[int, ...] = ()

    def validate(self):
        self.limit("epochs", least=0)
        self.limit("batch_size", least=2)
        self.limit("snapshots", least=1)
        self.limit("seed", least=0, most=2**31 - 1)
        require(
            all(0 < epoch < self.epochs for epoch in self.early),
            f"Config.early is {self.early}; each epoch must lie between 0 and Config.epochs, here {self.epochs}.",
        )

    @property
    def id(self) -> str:
        """Identity: 12 hexadecimal digits of the SHA-256 of the canonical JSON (defaults left out) and `RECIPE`."""
        canonical = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    @property
    def snapshot_epochs(self) -> tuple[int, ...]:
        """The epochs after which weights are kept, from 0 (initialisation) to `epochs`."""
        even = {round(i * self.epochs / self.snapshots) for i in range(self.snapshots + 1)}
        return tuple(sorted(even | set(self.early)))

    def to_dict(self) -> dict:
        """The configuration as JSON values, without the fields that stand at their default."""
        return {"recipe": RECIPE} | _to_dict(self)

    @classmethod
    def from_dict(cls, values: dict) -> "Config":
        """The inverse of `to_dict`; an unknown name, kind or recipe raises a sentence that lists the known ones."""
        require(isinstance(values, dict), f"A configuration is an object with names; this is {values!r}.")
        values = dict(values)
        recipe = values.pop("recipe", None)
        require(
            recipe == RECIPE,
            f"This configuration was made by recipe {recipe}; this version of sslbook computes recipe {RECIPE}.",
        )
        return _construct(cls, values)


def _to_dict(part: Part) -> dict:
    values = {}
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if field.default is dataclasses.MISSING or value != field.default:
            values[field.name] = _json(value)
    return values


def _json(value):
    if isinstance(value, Part):
        return {"kind": value.kind} | _to_dict(value)
    return [_json(v) for v in value] if isinstance(value, tuple) else value


def _construct(cls, values: dict):
    hints = _fields(cls)
    unknown = sorted(set(values) - set(hints))
    require(not unknown, f"{cls.__name__} has no field {', '.join(unknown)}; it has {', '.join(hints)}.")
    missing = [
        field.name
        for field in dataclasses.fields(cls)
        if field.default is dataclasses.MISSING and field.name not in values
    ]
    require(not missing, f"{cls.__name__} lacks {', '.join(missing)}; it has the fields {', '.join(hints)}.")
    return cls(**{name: _revive(value, name) for name, value in values.items()})


def _revive(value, slot: str):
    """The parts in a JSON value: an object is a part of `slot`, in a list too."""
    if isinstance(value, list):
        return [_revive(element, slot) for element in value]
    if not isinstance(value, dict):
        return value
    kinds, value = _KINDS.get(slot, {}), dict(value)
    kind = value.pop("kind", None)
    require(
        isinstance(kind, str) and kind in kinds, f"{slot}.kind is {kind!r}; allowed are {', '.join(sorted(kinds))}."
    )
    return _construct(kinds[kind], value)
