"""The views (`toprocess`, `finished`, `failed`, `timeline.json`): for people and scripts, never read back as truth."""

from .keeper import ViewKeeper, refresh_views

__all__ = ["ViewKeeper", "refresh_views"]
