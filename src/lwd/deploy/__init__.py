"""From a trained run to a robot: policies as files, C, ONNX, real-time control. What is named here needs numpy and, for graphs,
onnxruntime; never torch."""

from lwd.deploy.policy import Policy, load_policy
from lwd.deploy.realtime import AsyncController
from lwd.deploy.remote import RemoteGenerator
from lwd.deploy.runtime import Chunk, OnnxGenerator

__all__ = ["AsyncController", "Chunk", "OnnxGenerator", "Policy", "RemoteGenerator", "load_policy"]
