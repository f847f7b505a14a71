"""Run networks in ONNX form with ONNX Runtime, on one CPU thread and without telemetry."""

import os

# From 1.29 on, the Linux builds of ONNX Runtime report each session to Microsoft, under an id of this machine that
# they store in the user's home. This variable must be set before the library is loaded.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime  # noqa: TID251 - telemetry is off


def open_session(network: bytes) -> onnxruntime.InferenceSession:
    """Load a serialized ONNX model. The session may be shared by threads.

    It runs on one CPU thread, because there are as many worker processes as CPU cores.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # keeps one plan per input shape, and saves no time here
    return onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
