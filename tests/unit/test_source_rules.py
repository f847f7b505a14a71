"""Rules of security that no linter knows: what the code may not do, found in its syntax trees."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CALLERS = {"service/client.py", "service/cli/gateway.py", "service/triton/container.py"}
"""What may open an HTTP connection: two that ask a gateway for its user, and the probe of a container's Triton."""

NETWORK = {"httpx", "requests", "aiohttp", "urllib.request", "http.client", "ftplib", "smtplib"}
READERS_OF_PICKLES = {"service/workers/protocol.py"}
"""What a photo process reads its steps with; they come from the gateway that started it."""

UNSAFE = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def faults(path: str, source: str) -> Iterator[str]:
    """What a file of `service` or `training` does that it may not."""
    tree = ast.parse(source)
    for name in imports(tree):
        if path not in READERS_OF_PICKLES and name.partition(".")[0] in UNSAFE:
            yield f"{path} imports {name}: a file that is read with it can run code"
        if name == "onnxruntime" and path != "service/vision/onnx.py":
            yield f"{path} imports {name}: only service/vision/onnx.py keeps it from telling its maker"
        if path.startswith("service/") and path not in CALLERS and name in NETWORK:
            yield f"{path} imports {name}: the gateway asks nobody on a caller's behalf"
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        options = {option.arg: ast.unparse(option.value) for option in node.keywords}
        where = f"{path}:{node.lineno} {called}"
        if called == "torch.load" and options.get("weights_only") != "True":
            yield f"{where} without weights_only=True"
        if called.endswith(".fit") and "ckpt_path" in options and options.get("weights_only") != "True":
            yield f"{where} resumes without weights_only=True"
        if options.get("allow_pickle") == "True":
            yield f"{where} with allow_pickle=True"
        if options.get("shell") == "True" or called in (
            "eval",
            "exec",
            "os.system",
            "yaml.load",
            "yaml.unsafe_load",
        ):
            yield f"{where} runs what it is given"
        if options.get("verify") == "False":
            yield f"{where} does not check certificates"


def test_the_code_keeps_the_rules() -> None:
    files = [*ROOT.glob("service/**/*.py"), *ROOT.glob("training/**/*.py")]
    assert len(files) > 50
    found = [fault for file in files for fault in faults(str(file.relative_to(ROOT)), file.read_text())]
    assert not found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from urllib import request",
        "import httpx",
        "import onnxruntime",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "trainer.fit(stage, ckpt_path=last)",
        "np.load(path, allow_pickle=True)",
        "subprocess.run(text, shell=True)",
        "eval(text)",
        "client.get(url, verify=False)",
    ],
)
def test_what_breaks_a_rule_is_found(source: str) -> None:
    assert list(faults("service/some.py", source))
