"""A scripted PushT expert, which plans one push at a time by trying many in the real physics, and how it is asked for demonstrations."""

from lwd.envs.pusht.expert.collecting import Expert

__all__ = ["Expert"]
