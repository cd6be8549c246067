"""What a study asks for and what that comes to: plain values, nothing is trained."""

from bdjax.study.study import Study

__all__ = ["Study"]
