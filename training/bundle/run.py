"""Train the networks of a bundle, phase by phase."""

import json
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.bundle.data import BundleData, TaughtTargets, load_data
from training.bundle.faces import predict_faces
from training.bundle.file import read_bundle
from training.bundle.loop import Log, Member, Outcome, train_for
from training.bundle.parts import RUNS, Parts, round_to_half
from training.datasets.ferplus import EMOTIONS
from training.networks.tandem import EmotionNet, TandemNet
from training.protocols.ferplus import score_prepared
from training.settings.bundle import PHASES, BundleSettings, PhaseSettings, command, settings_from
from training.settings.stages import EmotionSettings, IdentitySettings, JointSettings, StageSettings
from training.stages.expression import ExpressionStage, JointStage
from training.stages.identity import IdentityStage

IDENTITY, STUDENT, JOINT = "identity", "emotion", "joint"
"""Names of the runs that make the tandem."""


def run_bundle(
    bundle: Path, out: Path, *, time_factor: float = 1.0, steps: int | None = None, limit: int | None = None
) -> None:
    """Train every phase of a bundle and write its weights and results after each.

    Args:
        bundle: File of ``training bundle``.
        out: Folder for what comes back; ``training unbundle`` turns it into runs.
        time_factor: Factor of the time of each phase, above 0.
        steps: Steps of each phase instead of its time.
        limit: Number of images of each set to use.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no bundle, the folder holds a run, or an option is out of range.
    """
    if time_factor <= 0:
        raise ValueError(f"time_factor is {time_factor}; it must be above 0")
    for name, value, least in (("steps", steps, 1), ("limit", limit, 2)):
        if value is not None and value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}")
    if (out / RUNS).exists():
        raise ValueError(f"{out} holds a run; choose another --out")
    facts, arrays = read_bundle(bundle)
    settings = _scaled(settings_from(facts["settings"]), time_factor)
    out.mkdir(parents=True, exist_ok=True)
    log = _log_into(out / "log.txt")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    machine = torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()
    provenance = {"commit": facts["commit"], "torch": str(torch.__version__), "machine": machine}
    torch.manual_seed(settings.seed)
    data = load_data(arrays, limit, device)
    log(
        f"{len(data.votes):,} images of FER+, {len(data.people):,} faces by person, {machine}, "
        f"torch {torch.__version__}"
    )
    _Run(settings, data, Parts(out, provenance), log, steps).train()
    log("done")


def _scaled(settings: BundleSettings, factor: float) -> BundleSettings:
    phases: dict[str, PhaseSettings] = {name: getattr(settings, name) for name in PHASES}
    scaled: dict[str, Any] = {
        name: replace(phase, seconds=phase.seconds * factor) for name, phase in phases.items()
    }
    return replace(settings, **scaled)


def _log_into(file: Path) -> Log:
    started = time.monotonic()

    def log(line: str) -> None:
        line = f"[{time.monotonic() - started:6.1f} s] {line}"
        print(line, flush=True)
        with file.open("a") as opened:
            opened.write(f"{line}\n")

    return log


class _Run:
    """The phases of a bundle, each of which uses what those before it have trained."""

    def __init__(
        self, settings: BundleSettings, data: BundleData, parts: Parts, log: Log, steps: int | None
    ) -> None:
        self.settings, self.data, self.parts, self.log, self.steps = settings, data, parts, log, steps
        self.device = data.votes.device

    def train(self) -> None:
        """Train all phases."""
        identities = self._train_identities()
        teachers = self._train_teachers(identities[self.settings.teacher_network])
        targets = TaughtTargets(self.data, teachers, self.settings.distill_weight)
        student = self._train_student(identities[self.settings.network], targets)
        self._train_joint(identities[self.settings.identity_network], student, targets)

    def _train_identities(self) -> dict[str, nn.Module]:
        """Return the trained backbones by the name of their network."""
        settings, data = self.settings, self.data
        first, people_count = len(data.votes), int(data.people.max()) + 1

        def targets(rows: Tensor, crops: Tensor) -> tuple[Tensor, ...]:
            people = data.people[rows - first]
            return (people,) if data.embeddings is None else (people, data.embeddings[rows - first])

        members, stages = [], {}
        for network in dict.fromkeys((settings.identity_network, settings.teacher_network, settings.network)):
            stage_settings = IdentitySettings(
                out=Path(_pretrained(network, settings)),
                data=settings.faces,
                network=network,
                margin=settings.cosine_margin,
                classification_weight=settings.classification_weight,
                teacher_weight=0.0 if data.embeddings is None else settings.teacher_weight,
                **self._common(settings.identity_phase),
            )
            size = 0 if data.embeddings is None else data.embeddings.shape[1]
            stage = IdentityStage(stage_settings, people_count, 1, None, size)
            stages[network] = stage
            members.append(Member(str(stage_settings.out), stage, stage.backbone, targets))
        outcome = self._phase("identity", settings.identity_phase, members, data.of_people)
        for network, stage in stages.items():
            kept = stage.backbone if network == settings.identity_network else None
            facts = {"people": people_count, "images": len(data.people)}
            self._add(stage.settings, outcome, facts, kept)
        self.parts.write()
        return {network: stage.backbone for network, stage in stages.items()}

    def _train_teachers(self, backbone: nn.Module) -> list[nn.Module]:
        settings, data = self.settings, self.data
        shift = settings.logit_adjustment * data.votes.mean(dim=0).clamp(min=1e-6).log()
        members = []
        for number in range(1, settings.teachers + 1):
            stage_settings = EmotionSettings(
                out=Path(f"teacher-{number}"),
                data=settings.ferplus,
                network=settings.teacher_network,
                start=Path(_pretrained(settings.teacher_network, settings)),
                unaligned_prob=settings.unaligned_prob,
                logit_adjustment=settings.logit_adjustment,
                dropout=0.3,
                keep="last",
                **self._common(settings.teacher_phase),
            )
            network = EmotionNet(settings.teacher_network, len(EMOTIONS), stage_settings.dropout)
            network.backbone.load_state_dict(backbone.state_dict())
            stage = ExpressionStage(stage_settings, network, 1, data.scored, shift=shift.cpu().numpy())
            members.append(
                Member(
                    str(stage_settings.out),
                    stage,
                    network,
                    lambda rows, crops: (data.votes[rows],),
                    settings.unaligned_prob,
                )
            )
        outcome = self._phase("teachers", settings.teacher_phase, members, data.of_ferplus)
        for member in members:
            self._add_scored(member, outcome, len(data.votes))
        self.parts.write()
        return [member.network for member in members]

    def _train_student(self, backbone: nn.Module, targets: TaughtTargets) -> EmotionNet:
        settings, data = self.settings, self.data
        stage_settings = EmotionSettings(
            out=Path(STUDENT),
            data=settings.ferplus,
            network=settings.network,
            start=Path(_pretrained(settings.network, settings)),
            keep="last",
            **self._taught(settings.student_phase),
        )
        network = EmotionNet(settings.network, len(EMOTIONS), stage_settings.dropout)
        network.backbone.load_state_dict(backbone.state_dict())
        stage = ExpressionStage(stage_settings, network, 1, data.scored)
        member = Member(STUDENT, stage, network, targets, settings.unaligned_prob)
        outcome = self._phase("student", settings.student_phase, [member], self._student_rows())
        self._add_scored(member, outcome, len(data.faces))
        self.parts.write()
        return network

    def _train_joint(self, identity: nn.Module, student: EmotionNet, targets: TaughtTargets) -> None:
        settings, data = self.settings, self.data
        stage_settings = JointSettings(
            out=Path(JOINT),
            data=settings.ferplus,
            identity=Path(IDENTITY),
            emotion=Path(STUDENT),
            keep="last",
            **self._taught(settings.joint_phase),
        )
        network = TandemNet(
            settings.identity_network,
            settings.network,
            len(EMOTIONS),
            hidden=stage_settings.hidden,
            dropout=stage_settings.dropout,
        )
        network.start_from(identity.state_dict(), student.cpu())
        stage = JointStage(stage_settings, network, 1, data.scored)
        member = Member(JOINT, stage, network, targets, settings.unaligned_prob)
        outcome = self._phase("joint", settings.joint_phase, [member], self._student_rows())
        self._add_scored(member, outcome, len(data.faces))
        self.parts.write()

    def _student_rows(self) -> Tensor:
        """FER+ twice, because its votes are known, and the faces by person once."""
        return torch.cat([self.data.of_ferplus, self.data.of_ferplus, self.data.of_people])

    def _common(self, phase: PhaseSettings) -> dict[str, Any]:
        on_gpu = self.device.type == "cuda"
        return {
            **phase.stage_options(),
            "seed": self.settings.seed,
            "warmup_epochs": 0,  # a share of the steps instead
            "precision": "bf16-mixed" if on_gpu else "32-true",
            "accelerator": "gpu" if on_gpu else "cpu",
        }

    def _taught(self, phase: PhaseSettings) -> dict[str, Any]:
        return {
            **self._common(phase),
            "unaligned_prob": self.settings.unaligned_prob,
            "distill_from": tuple(Path(f"teacher-{number + 1}") for number in range(self.settings.teachers)),
            "distill_weight": self.settings.distill_weight,
        }

    def _phase(self, name: str, phase: PhaseSettings, members: list[Member], rows: Tensor) -> Outcome:
        def log(line: str) -> None:
            self.log(f"{name}: {line}")

        outcome = train_for(phase, members, self.data.faces, rows, log, steps=self.steps)
        for member in members:
            round_to_half(member.network)
        return outcome

    def _add_scored(self, member: Member, outcome: Outcome, images: int) -> None:
        """Score a network on Valid and add its run."""
        data = self.data
        probabilities = predict_faces(member.network, data.valid, mirror=False).cpu().numpy()
        halves = {"choosing": data.choosing, "reporting": ~data.choosing}
        scores = {half: score_prepared(probabilities, data.scored, rows) for half, rows in halves.items()}
        shown = (
            f"{h} half majority {s.majority.accuracy:.4f} argmax {s.argmax.accuracy:.4f}"
            for h, s in scores.items()
        )
        self.log(f"{member.name}: Valid, " + ", ".join(shown))
        facts = {
            "images": images,
            "valid": asdict(score_prepared(probabilities, data.scored)),
            "halves": {half: asdict(each) for half, each in scores.items()},
        }
        self._add(member.stage.settings, outcome, facts, member.network)

    def _add(
        self, settings: StageSettings, outcome: Outcome, facts: Mapping[str, Any], network: nn.Module | None
    ) -> None:
        name = str(settings.out)
        stored = json.loads(json.dumps({"stage": settings.stage, **asdict(settings)}, default=str))
        stored |= {"epochs": max(1, round(outcome.epochs)), "command": command(self.settings)}
        result = {"curves": {"loss": outcome.losses[name]}, "steps": outcome.steps, **facts}
        self.parts.add(name, stored, result, network)


def _pretrained(network: str, settings: BundleSettings) -> str:
    """Return the name of the identity run of a network."""
    return IDENTITY if network == settings.identity_network else f"pretrained-{network}"
