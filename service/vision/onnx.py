"""How networks in ONNX form are run."""

import os

# From 1.29 on its Linux builds tell Microsoft of each session, under an id of this machine that they keep in the
# user's home, unless this is set before the library is loaded.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime

from service.vision.weights import Weights, check


def open_session(weights: Weights) -> onnxruntime.InferenceSession:
    """A session of a vendored network; see ``open_network``."""
    return open_network(check(weights))


def open_network(network: bytes) -> onnxruntime.InferenceSession:
    """One onnxruntime session on one CPU thread; a session may be shared by threads.

    One thread each, because photos are worked on by as many processes as there are cores.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # one is kept for each size of photo, which saves no time here
    return onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
