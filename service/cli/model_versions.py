"""Which versions of a model Triton loads, as the model repository says it.

A Triton in poll mode reads ``config.pbtxt`` anew within seconds of a change. It loads and warms what is new beside
what it serves, and only then changes over, so that no request fails. The file is replaced in one step.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format  # type: ignore[import-untyped]
from tritonclient.grpc import model_config_pb2

CONFIG = "config.pbtxt"
WEIGHTS = "model.pt"

Policy = tuple[int, ...]
"""The versions that are loaded, the active one first; empty for the newest alone, Triton's default."""

NEWEST: Policy = ()

BLOCK = re.compile(
    r"\n# By `tandem model`; loaded before: (?P<former>.*)\n"
    r"version_policy \{ (?:latest|specific) \{ (?:num_versions: 1|versions: \[(?P<versions>.*)\]) \} \}\n"
)
"""What is ours in the file; it keeps the way back, too."""


class RolloutRefused(Exception):
    """The repository cannot go there, or its configuration is not ours to change; the message says why."""


@dataclass(frozen=True)
class Loaded:
    """``policy`` is what Triton is told to load, ``former`` what it was told before, None if unknown."""

    policy: Policy
    former: Policy | None


class VersionedModel:
    """One model of a model repository, with a folder for each version."""

    def __init__(self, repository: Path, name: str) -> None:
        """Change nothing yet.

        Raises:
            RolloutRefused: there is no such model.
        """
        self.folder = repository / name
        self._config = self.folder / CONFIG
        if not self._config.is_file():
            raise RolloutRefused(f"{self._config} is not there")

    @property
    def versions(self) -> list[int]:
        """Every version with weights, oldest first."""
        return sorted(int(path.parent.name) for path in self.folder.glob(f"[0-9]*/{WEIGHTS}"))

    @property
    def loaded(self) -> Loaded:
        """What Triton is told to load.

        Raises:
            RolloutRefused: the configuration has a ``version_policy`` that is not from here.
        """
        return self._read()[1]

    @property
    def active(self) -> int:
        """The version that answers callers.

        Raises:
            RolloutRefused: there is none, or the configuration is not ours.
        """
        return self._first(self.loaded.policy)

    def activate(self, version: int | None) -> None:
        """Have one version loaded, or for None the newest one, also when a newer one comes.

        Raises:
            RolloutRefused: there is no such version, or the configuration is not ours.
        """
        self._change(NEWEST if version is None else (version,))

    def shadow(self, version: int) -> None:
        """Have another version loaded beside the active one, which gateways must ask for by its number.

        Raises:
            RolloutRefused: it is the active one, there is none, or the configuration is not ours.
        """
        active = self.active
        if version == active:
            raise RolloutRefused(f"version {version} is the active one; a shadow is another")
        self._change((active, version))

    def roll_back(self) -> None:
        """Go to what was loaded before; where that is unknown, from the newest version to the one before it.

        Raises:
            RolloutRefused: there is no way back, or the configuration is not ours.
        """
        former = self.loaded.former
        if former is None:
            if len(self.versions) < 2:
                raise RolloutRefused(f"{self.folder} has no version before {self.active}")
            former = (self.versions[-2],)
        self._change(former)

    def _first(self, policy: Policy) -> int:
        if policy:
            return policy[0]
        if not self.versions:
            raise RolloutRefused(f"{self.folder} has no version with a {WEIGHTS}")
        return self.versions[-1]

    def _read(self) -> tuple[str, Loaded]:
        """The configuration without our block, and what the block says."""
        text = self._config.read_text()
        found = BLOCK.search(text)
        if found is None:
            _check(text, self._config)
            return text, Loaded(NEWEST, None)
        text = text.replace(found[0], "")
        _check(text, self._config)
        return text, Loaded(_versions(found["versions"] or ""), _versions(found["former"]))

    def _change(self, policy: Policy) -> None:
        for version in policy:
            if version not in self.versions:
                there = ", ".join(map(str, self.versions)) or "none"
                raise RolloutRefused(f"{self.folder} has no version {version} with a {WEIGHTS}; there are {there}")
        text, loaded = self._read()
        former, coming = self._first(loaded.policy), self._first(policy)
        if coming != former:
            # One file is the contract of all versions: each keeps its own beside its weights.
            kept = self.folder / str(former) / CONFIG
            if kept.parent.is_dir() and not kept.exists():
                _replace(kept, text, self.folder.parent)
            own = self.folder / str(coming) / CONFIG
            if own.is_file():
                text = own.read_text()
                _check(text, own)
        choice = f"specific {{ versions: [{words(policy)}] }}" if policy else "latest { num_versions: 1 }"
        block = f"\n# By `tandem model`; loaded before: {words(loaded.policy)}\nversion_policy {{ {choice} }}\n"
        _replace(self._config, text + block, self.folder.parent)


def words(policy: Policy) -> str:
    """«newest», or the versions' numbers with commas."""
    return ", ".join(map(str, policy)) or "newest"


def _versions(text: str) -> Policy:
    return tuple(int(number) for number in re.findall(r"\d+", text))


def _check(text: str, path: Path) -> None:
    try:
        config = text_format.Parse(text, model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        raise RolloutRefused(f"{path} cannot be read: {error}") from None
    if config.HasField("version_policy"):
        raise RolloutRefused(f"{path} has a version_policy of its own; take it out, `tandem model` keeps one")


def _replace(path: Path, text: str, repository: Path) -> None:
    """Write a file in one step. Beside the models' folders, where Triton does not look."""
    unfinished = repository / f".{os.getpid()}.{CONFIG}"
    try:
        unfinished.write_text(text)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
