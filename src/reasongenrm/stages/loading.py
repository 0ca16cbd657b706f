"""What the stages load in the same way: a teacher's encoder."""

from __future__ import annotations
