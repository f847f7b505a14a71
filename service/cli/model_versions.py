"""The version policy of a model in Triton's model repository: which versions Triton loads.

A Triton in poll mode rereads ``config.pbtxt`` within seconds of a change. It loads and warms up new versions
beside the current ones before it switches, so no request fails. The file is replaced atomically.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format  # type: ignore[import-untyped]
from tritonclient.grpc import model_config_pb2

CONFIG = "config.pbtxt"
WEIGHTS = ("model.pt", "model.onnx")
"""A version has one of these, or both: wheels bring only the second."""

VersionPolicy = tuple[int, ...]
"""The versions to load, the active one first; empty for the newest version only, which is Triton's default."""

NEWEST: VersionPolicy = ()

POLICY_BLOCK = re.compile(
    r"\n# By `tandem model`; loaded before: (?P<previous>.*)\n"
    r"version_policy \{ (?:latest|specific) \{ (?:num_versions: 1|versions: \[(?P<versions>.*)\]) \} \}\n"
)
"""The part of the file that `tandem model` writes. Its comment holds the previous policy for a rollback."""


class VersionChangeRefused(Exception):
    """The version does not exist, or someone else manages the version policy; the message says which."""


@dataclass(frozen=True)
class PolicyState:
    """The policy that Triton follows, and the one before it, None if unknown."""

    current: VersionPolicy
    previous: VersionPolicy | None


class VersionedModel:
    """One model of a model repository, with a folder per version."""

    def __init__(self, repository: Path, name: str) -> None:
        """Open a model without changing it.

        Raises:
            VersionChangeRefused: the repository has no such model.
        """
        self.folder = repository / name
        self._config = self.folder / CONFIG
        if not self._config.is_file():
            raise VersionChangeRefused(f"{self._config} does not exist")

    @property
    def versions(self) -> list[int]:
        """The versions that have weights, oldest first."""
        found = {path.parent.name for weights in WEIGHTS for path in self.folder.glob(f"[0-9]*/{weights}")}
        return sorted(map(int, found))

    @property
    def policy_state(self) -> PolicyState:
        """The current and the previous policy.

        Raises:
            VersionChangeRefused: the configuration has a ``version_policy`` that `tandem model` did not write.
        """
        return self._read()[1]

    @property
    def active(self) -> int:
        """The version that answers requests.

        Raises:
            VersionChangeRefused: there is none, or `tandem model` did not write the ``version_policy``.
        """
        return self._active_of(self.policy_state.current)

    def activate(self, version: int | None) -> None:
        """Load one version; None follows the newest version, including later ones.

        Raises:
            VersionChangeRefused: there is no such version, or `tandem model` did not write the ``version_policy``.
        """
        self._change(NEWEST if version is None else (version,))

    def shadow(self, version: int) -> None:
        """Load a second version beside the active one. Gateways must request each by its number.

        Raises:
            VersionChangeRefused: the version is active or does not exist, or `tandem model` did not write the
                ``version_policy``.
        """
        active = self.active
        if version == active:
            raise VersionChangeRefused(f"version {version} is the active one; a shadow must be another version")
        self._change((active, version))

    def roll_back(self) -> None:
        """Return to the previous policy; if it is unknown, to the version before the newest.

        Raises:
            VersionChangeRefused: there is no previous version, or `tandem model` did not write the
                ``version_policy``.
        """
        previous = self.policy_state.previous
        if previous is None:
            if len(self.versions) < 2:
                raise VersionChangeRefused(f"{self.folder} has no version before {self.active}")
            previous = (self.versions[-2],)
        self._change(previous)

    def _active_of(self, policy: VersionPolicy) -> int:
        if policy:
            return policy[0]
        if not self.versions:
            raise VersionChangeRefused(f"{self.folder} has no version with a {' or '.join(WEIGHTS)}")
        return self.versions[-1]

    def _read(self) -> tuple[str, PolicyState]:
        """Return the configuration without the policy block, and what the block says."""
        text = self._config.read_text()
        block = POLICY_BLOCK.search(text)
        if block is None:
            _check(text, self._config)
            return text, PolicyState(NEWEST, None)
        text = text.replace(block[0], "")
        _check(text, self._config)
        return text, PolicyState(_parse_policy(block["versions"] or ""), _parse_policy(block["previous"]))

    def _change(self, policy: VersionPolicy) -> None:
        for version in policy:
            if version not in self.versions:
                existing = ", ".join(map(str, self.versions)) or "none"
                raise VersionChangeRefused(
                    f"{self.folder} has no version {version} with a {' or '.join(WEIGHTS)}; it has {existing}"
                )
        text, state = self._read()
        if policy == state.current:  # to write it again would forget the policy before it
            return
        old, new = self._active_of(state.current), self._active_of(policy)
        if new != old:
            # Triton reads one configuration for all versions, so each version keeps its own beside its weights.
            saved = self.folder / str(old) / CONFIG
            if saved.parent.is_dir() and not saved.exists():
                _write_atomically(saved, text, self.folder.parent)
            own = self.folder / str(new) / CONFIG
            if own.is_file():
                text = own.read_text()
                _check(text, own)
        choice = f"specific {{ versions: [{format_policy(policy)}] }}" if policy else "latest { num_versions: 1 }"
        comment = f"# By `tandem model`; loaded before: {format_policy(state.current)}"
        block = f"\n{comment}\nversion_policy {{ {choice} }}\n"
        _write_atomically(self._config, text + block, self.folder.parent)


def format_policy(policy: VersionPolicy) -> str:
    """Return "newest", or the version numbers separated by commas."""
    return ", ".join(map(str, policy)) or "newest"


def _parse_policy(text: str) -> VersionPolicy:
    return tuple(int(number) for number in re.findall(r"\d+", text))


def _check(text: str, path: Path) -> None:
    try:
        config = text_format.Parse(text, model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        raise VersionChangeRefused(f"{path} cannot be parsed: {error}") from None
    if config.HasField("version_policy"):
        raise VersionChangeRefused(
            f"{path} has a version_policy that `tandem model` did not write; remove it to use this command"
        )


def _write_atomically(path: Path, text: str, repository: Path) -> None:
    """Replace a file in one step. Its temporary file is outside the models' folders, so that Triton ignores it."""
    temporary = repository / f".{os.getpid()}.{CONFIG}"
    try:
        temporary.write_text(text)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
