"""Checks of arguments, those of `problems.arguments`."""

from problems.arguments import capable, instance, integer, is_finite, non_negative, positive, room, share, shown, truth

__all__ = ["capable", "instance", "integer", "is_finite", "non_negative", "positive", "room", "share", "shown", "truth"]
