"""Parameter groups of the merged optimizer: those of the sub-models' optimizers, or its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

from graphsplit.errors import MergeError

if TYPE_CHECKING:
    import torch

Settings = Literal["submodels", "into"]

HOW = ("foreach", "fused", "capturable", "differentiable")
"""How an optimizer computes its steps: its own affair, wherever its settings come from."""
NEEDS = {"amsgrad": "max_exp_avg_sq", "centered": "grad_avg", "momentum": "momentum_buffer"}
"""Settings without which an optimizer keeps no state of a kind, and with which it can't go on without."""


class Grouped(Protocol):
    """A sub-model's optimizer: for each tensor's name the number of its group."""

    @property
    def optimizer(self) -> torch.optim.Optimizer: ...
    @property
    def group(self) -> Mapping[str, int]: ...


def merged_groups(
    given: Sequence[Grouped], into: torch.optim.Optimizer, targets: Mapping[Any, str], suffixes: Sequence[str]
) -> list[dict[str, Any]]:
    """The sub-models' groups with their settings, of the merged parameters. Those that none of them has stay as they are.

    `targets` names the parameters; a copy for a part has one of the `suffixes` behind its tensor's name.
    """
    settings = [_settings(given, number) for number in range(len(given[0].optimizer.param_groups))]
    members: list[list[tuple[Any, Any]]] = [[] for _ in settings]
    rest: list[dict[str, Any]] = []
    for group in into.param_groups:
        left: list[tuple[Any, Any]] = []
        names = group.get("param_names") or [None] * len(group["params"])
        for parameter, name in zip(group["params"], names, strict=True):
            number = _group_of(given, targets[parameter], suffixes)
            (left if number is None else members[number]).append((parameter, name))
        if left:
            rest.append(_group(group, left))
    first = into.param_groups[0]
    own = {key: first[key] for key in HOW if key in first}
    found = [{**first, **s, **own} for s in settings]
    return [*(_group(s, held) for s, held in zip(found, members, strict=True) if held), *rest]


def refuse_missing_state(
    groups: Sequence[Mapping[str, Any]], states: Mapping[Any, Mapping[str, Any]], targets: Mapping[Any, str]
) -> None:
    """Raise MergeError where a group's settings ask for state that the sub-models' optimizers didn't keep."""
    for group in groups:
        for parameter in group["params"]:
            state = states.get(parameter, {})
            for setting, key in NEEDS.items():
                if state and group.get(setting) and state.get(key) is None:
                    raise MergeError(
                        f"{targets[parameter]!r}: the optimizer to merge into has {setting!r}, and the sub-models' "
                        f"optimizers have no {key!r} for it",
                        hint="give them the same settings; only learning rates, decay and betas can change at the merge",
                    )


def _group(settings: Mapping[str, Any], members: Sequence[tuple[Any, Any]]) -> dict[str, Any]:
    """A group of these parameters; their names, where they have any, go with them."""
    held = {key: value for key, value in settings.items() if key not in ("params", "param_names")}
    named = {"param_names": [name for _, name in members]} if members[0][1] is not None else {}
    return {"params": [parameter for parameter, _ in members], **named, **held}


def _group_of(given: Sequence[Grouped], name: str, suffixes: Sequence[str]) -> int | None:
    names = [name, *(name.removesuffix(f".{suffix}") for suffix in suffixes)]
    found = {one.group[n] for one in given for n in names if n in one.group}
    if len(found) > 1:
        raise MergeError(
            f"{name!r} is in group {min(found)} of one optimizer and in group {max(found)} of another",
            hint="group the sub-models' parameters alike, or keep the groups of `into`: settings='into'",
        )
    return found.pop() if found else None


def _settings(given: Sequence[Grouped], number: int) -> dict[str, Any]:
    """A group's settings, which must be the same in all sub-models' optimizers."""
    counts = [len(one.optimizer.param_groups) for one in given]
    if number >= min(counts):
        raise MergeError(
            f"optimizer {counts.index(min(counts))} has {min(counts)} groups, and optimizer 0 has {counts[0]}",
            hint="group the sub-models' parameters alike, or keep the groups of `into`: settings='into'",
        )
    held = [one.optimizer.param_groups[number] for one in given]
    first = {key: value for key, value in held[0].items() if key not in ("params", "param_names", *HOW)}
    for other, group in enumerate(held):
        for key in (*first, *(k for k in group if k not in ("params", "param_names", *HOW))):
            one, two = _plain(first.get(key)), _plain(group.get(key))
            if one != two:
                raise MergeError(
                    f"{key!r} of group {number} is {one!r} in optimizer 0 and {two!r} in optimizer {other}",
                    hint="set them alike before the merge, or keep those of the optimizer to merge into: "
                    "merge_optimizers(…, settings='into')",
                )
    return {key: value.detach().clone() if hasattr(value, "detach") else value for key, value in first.items()}


def _plain(value: Any) -> Any:
    """A setting as plain numbers: learning rates and betas may be tensors."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return tuple(map(_plain, value)) if isinstance(value, tuple | list) else value
