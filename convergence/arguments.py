"""Checks of arguments, those of `problems.arguments`."""

from problems.arguments import capable, integer, is_finite, non_negative, positive, room, share, shown, truth

__all__ = ["capable", "integer", "is_finite", "non_negative", "positive", "room", "share", "shown", "truth"]
