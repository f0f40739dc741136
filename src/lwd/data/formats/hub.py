"""LeRobot data sets of the Hugging Face Hub. Only their meta data and tables are downloaded, never videos."""

from __future__ import annotations

from pathlib import Path

from lwd.data.formats import lerobot
from lwd.errors import LWDError


def fetch(repo_id: str) -> Path:
    """Downloads a LeRobot data set "owner/name" into the Hub's cache and returns the local directory.

    The meta data come first, so that a data set that cannot be read is refused before its tables travel.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise LWDError(f"{repo_id}: downloading needs huggingface_hub: {lerobot.INSTALL}") from error
    try:
        root = Path(snapshot_download(repo_id, repo_type="dataset", allow_patterns=["meta/*"]))
        if not lerobot.matches(root):
            raise LWDError("not a LeRobot data set of version 2 or 3: it has no meta/info.json")
        lerobot.features(root)
        return Path(snapshot_download(repo_id, repo_type="dataset", allow_patterns=["meta/*", "data/*.parquet"]))
    except LWDError as error:
        raise LWDError(f"{repo_id}: {error}") from error
    except Exception as error:  # network, credentials, unknown names: the Hub's client raises many unrelated types
        reason = " ".join(str(error).split())[:300]
        raise LWDError(f"{repo_id}: cannot be downloaded from the Hugging Face Hub ({type(error).__name__}: {reason})") from error
