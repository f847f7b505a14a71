"""How the vendored networks are run."""

import onnxruntime

from service.faces.weights import Weights, check


def open_session(weights: Weights) -> onnxruntime.InferenceSession:
    """One onnxruntime session on one CPU thread; a session may be shared by threads.

    One thread each, because photos are worked on by as many processes as there are cores.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(check(weights), options, providers=["CPUExecutionProvider"])
